"""The doctor: where the time of a training step goes, what bounds the run, and what to type."""

from lgrep.training.doctor.examine import examine

__all__ = ["examine"]
