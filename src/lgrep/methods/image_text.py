"""No image objective: the language objective alone trains the backbone (CLIP, SigLIP, CLIP-rocket, ...)."""

from __future__ import annotations

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.methods.base import Method, StepOutput


class ImageText(Method):
    """What CLIP (Radford et al., arXiv 2103.00020) and its relatives train; `language=` says how.

    Args:
        backbone: image encoder.
    """

    needs_text = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        return StepOutput(features.new_zeros(()), features, features, {})
