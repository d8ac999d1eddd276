"""Methods: one file each, a LightningModule with heads and an objective."""

from lgrep.methods.base import Method, StepOutput
from lgrep.methods.simclr import SimCLR
from lgrep.methods.stablerep import StableRep

__all__ = ["Method", "SimCLR", "StableRep", "StepOutput"]
