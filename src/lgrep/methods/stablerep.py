"""StableRep: all pictures of a caption are positives of each other."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import multi_positive_contrastive
from lgrep.losses.gather import anchor_places
from lgrep.methods.base import Method, StepOutput, relations_between
from lgrep.methods.modules.heads import MLPHead, apply_per_view


class StableRep(Method):
    """StableRep (Tian et al., arXiv 2306.00984, multi-positive contrastive loss).

    Args:
        backbone: image encoder.
        temperature: of the softmax over cosine similarities.
        projector_dims: widths of the MLP head's layers; the published head is 4096-4096-256.
        projector_bias: whether its linear layers have a bias.
        positional_labels: take an anchor's place in the global batch as its group, as the published code
            does, so that anchors with the same caption are negatives of each other.
    """

    min_views = 2
    uses_relations = True

    def __init__(
        self,
        backbone: Backbone,
        temperature: PositiveFloat = 0.1,
        projector_dims: tuple[PositiveInt, ...] = (4096, 4096, 256),
        projector_bias: bool = True,
        positional_labels: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.temperature = temperature
        self.positional_labels = positional_labels
        self.projector = MLPHead(backbone.dim, projector_dims, bias=projector_bias)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, batch.num_views)
        positives, ignore = relations_between(batch, len(embeddings))
        loss = multi_positive_contrastive(
            embeddings, self._labels(batch), self.temperature, positives=positives, ignore=ignore
        )
        return StepOutput(loss, features, embeddings, {})

    def _labels(self, batch: Batch) -> torch.Tensor:
        if not self.positional_labels:
            return batch.group.flatten()
        return anchor_places(batch.num_anchors, batch.row.device).repeat(batch.num_views)
