"""SimSiam: predict one view's embedding from the other's, without negatives."""

from __future__ import annotations

from pydantic import PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import negative_cosine
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view


class SimSiam(Method):
    """SimSiam (Chen and He, arXiv 2011.10566, eq. 2): minus the mean cosine of predictions and stopped targets.

    Args:
        backbone: image encoder.
        projector_dims: widths of the projector, which ends in a BatchNorm without scale and shift.
        predictor_dims: widths of the predictor; the last one is the projector's.
        reference_behaviour: language-guided SSL's heads: no biases, and a BatchNorm with scale and shift at the end.
    """

    exact_views = 2
    compares_pictures = False

    def __init__(
        self,
        backbone: Backbone,
        projector_dims: tuple[PositiveInt, ...] = (2048, 2048, 2048),
        predictor_dims: tuple[PositiveInt, ...] = (512, 2048),
        reference_behaviour: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.projector = MLPHead(
            backbone.dim, projector_dims, bias=False, last_norm=True, last_affine=reference_behaviour
        )
        self.predictor = MLPHead(self.projector.out_dim, predictor_dims, bias=not reference_behaviour)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, 2)
        (za, zb), (pa, pb) = embeddings.chunk(2), apply_per_view(self.predictor, embeddings, 2).chunk(2)
        loss = (negative_cosine(pa, zb) + negative_cosine(pb, za)) / 4 - 1
        return StepOutput(loss, features, embeddings, {})
