"""Barlow Twins: make the cross-correlation of two views the identity."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import barlow_twins
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view


class BarlowTwins(Method):
    """Barlow Twins (Zbontar et al., arXiv 2103.03230, eq. 1).

    Args:
        backbone: image encoder.
        projector_dims: widths of the projector, which ends in a BatchNorm without scale and shift.
        off_diagonal_weight: of the redundancy term.
        scale: of the whole loss, as in the published code.
        gradient: `exact`, or `local`: the published 1 / W of it on W processes.
    """

    exact_views = 2

    def __init__(
        self,
        backbone: Backbone,
        projector_dims: tuple[PositiveInt, ...] = (8192, 8192, 8192),
        off_diagonal_weight: PositiveFloat = 5.1e-3,
        scale: PositiveFloat = 0.024,
        gradient: Literal["exact", "local"] = "exact",
    ) -> None:
        super().__init__(backbone)
        self.options = (off_diagonal_weight, scale, gradient)
        self.projector = MLPHead(backbone.dim, projector_dims, bias=False, last_norm=True, last_affine=False)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, 2)
        first, second = embeddings.chunk(2)
        loss = barlow_twins(first, second, *self.options)
        return StepOutput(loss, features, embeddings, {})
