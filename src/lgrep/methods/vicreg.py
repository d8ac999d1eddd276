"""VICReg: invariance between views, variance and covariance within each."""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import vicreg
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view


class VICReg(Method):
    """VICReg (Bardes et al., arXiv 2105.04906, eq. 6).

    Args:
        backbone: image encoder.
        projector_dims: widths of the expander.
        invariance_weight, variance_weight, covariance_weight: of the three terms.
    """

    exact_views = 2

    def __init__(
        self,
        backbone: Backbone,
        projector_dims: tuple[PositiveInt, ...] = (8192, 8192, 8192),
        invariance_weight: NonNegativeFloat = 25.0,
        variance_weight: NonNegativeFloat = 25.0,
        covariance_weight: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__(backbone)
        self.weights = (invariance_weight, variance_weight, covariance_weight)
        self.projector = MLPHead(backbone.dim, projector_dims)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, 2)
        first, second = embeddings.chunk(2)
        loss = vicreg(first, second, *self.weights)
        return StepOutput(loss, features, embeddings, {})
