"""SimCLR: two views of a picture are positives, all others negatives."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import nt_xent
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view


class SimCLR(Method):
    """SimCLR (Chen et al., arXiv 2002.05709, eq. 1); with `pairing=neighbour` it is LG-SimCLR.

    Args:
        backbone: image encoder.
        temperature: of the softmax over cosine similarities.
        projector_dims: widths of the MLP head's layers.
        projector_bias: whether its linear layers have a bias.
    """

    exact_views = 2

    def __init__(
        self,
        backbone: Backbone,
        temperature: PositiveFloat = 0.1,
        projector_dims: tuple[PositiveInt, ...] = (4096, 4096, 256),
        projector_bias: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.temperature = temperature
        self.projector = MLPHead(backbone.dim, projector_dims, bias=projector_bias)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, batch.num_views)
        view_a, view_b = embeddings.chunk(2)
        loss = nt_xent(view_a, view_b, self.temperature)
        return StepOutput(loss, features, embeddings, {})
