"""Lengths of training that were published for a data set."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat


class PublishedSchedule(BaseModel):
    """What `duration=1x` and the like stand for on one data set.

    Attributes:
        epochs: passes over the anchors.
        warmup_epochs: length of the linear warm-up, in the same unit; may be a fraction.
    """

    model_config = ConfigDict(extra="forbid")

    epochs: PositiveFloat
    warmup_epochs: NonNegativeFloat
