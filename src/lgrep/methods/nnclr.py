"""NNCLR: a picture's positive is the nearest neighbour of its other view in a queue."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import nnclr
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view
from lgrep.methods.modules.queue import FeatureQueue


class NNCLR(Method):
    """NNCLR (Dwibedi et al., arXiv 2104.14548, eq. 3, both directions).

    Args:
        backbone: image encoder.
        temperature: of the softmax over cosine similarities.
        projector_dims: widths of the projector, which ends in a BatchNorm.
        predictor_dims: widths of the predictor; the last one is the projector's.
        queue_size: embeddings of earlier pictures among which neighbours are sought.
        reference_behaviour: language-guided SSL's heads (no biases, no BatchNorm at the projector's end) and queue
            (what does not fit before its end is dropped).
    """

    exact_views = 2

    def __init__(
        self,
        backbone: Backbone,
        temperature: PositiveFloat = 0.1,
        projector_dims: tuple[PositiveInt, ...] = (2048, 2048, 256),
        predictor_dims: tuple[PositiveInt, ...] = (4096, 256),
        queue_size: PositiveInt = 98304,
        reference_behaviour: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.temperature = temperature
        plain = reference_behaviour
        self.projector = MLPHead(backbone.dim, projector_dims, bias=not plain, last_norm=not plain)
        self.predictor = MLPHead(self.projector.out_dim, predictor_dims, bias=not plain)
        self.queue = FeatureQueue(queue_size, self.projector.out_dim, wrap=not plain)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, 2)
        (za, zb), (pa, pb) = embeddings.chunk(2), apply_per_view(self.predictor, embeddings, 2).chunk(2)
        # `nnclr` contrasts prediction_a with neighbour_b and prediction_b with neighbour_a
        loss = nnclr(pa, pb, self.queue.nearest(za), self.queue.nearest(zb), self.temperature)
        self.queue.push(za)
        return StepOutput(loss, features, embeddings, {})
