"""StableRep+: every picture of a caption is matched with it."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from lgrep.data.batch import Batch
from lgrep.losses import multi_positive_image_text
from lgrep.losses.gather import anchor_places
from lgrep.methods.language.base import (
    LanguageObjective,
    Modalities,
    Projection,
    Tower,
    Views,
    log_scale,
    projection,
)
from lgrep.methods.modules.heads import apply_per_view


class StableRepPlusObjective(LanguageObjective):
    """The language term of StableRep+ (Tian et al., arXiv 2306.00984, section 3.3).

    Args:
        modalities, views, image_views, tower, weight, max_scale: see `LanguageObjective`; views: None is all.
        projection_kind: `linear` to `embed_dim`, or `mlp` heads (published: 4096-4096-256), per view.
        embed_dim: width of the joint space; published: 512 linear, 256 mlp.
        temperature: at the start; learned.
        positional_labels: take an anchor's place in the batch as its caption, as published, so that equal captions
            are negatives of each other.
    """

    def __init__(
        self,
        modalities: Modalities,
        views: Views | None = None,
        image_views: Views | None = None,
        tower: Tower | None = None,
        weight: NonNegativeFloat = 1.0,
        max_scale: PositiveFloat | None = 100.0,
        projection_kind: Projection = "linear",
        embed_dim: PositiveInt = 512,
        temperature: PositiveFloat = 0.07,
        positional_labels: bool = False,
    ) -> None:
        super().__init__(modalities, views, image_views, tower, weight, max_scale)
        self.positional_labels = positional_labels
        self.image_projection = projection(projection_kind, modalities.image_dim, embed_dim)
        self.text_projection = projection(projection_kind, self.text_dim, embed_dim)
        self.logit_scale = log_scale(temperature)

    def forward(self, images: list[Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        image = apply_per_view(self.image_projection, torch.cat(images), len(images))
        text = self.text_projection(self.texts(batch))
        labels = self._captions(batch)
        scale = self.logit_scale.exp()
        loss = multi_positive_image_text(image, text, labels.repeat(len(images)), labels, scale)
        return loss, {"logit_scale": scale.detach()}

    def _captions(self, batch: Batch) -> Tensor:
        if self.positional_labels:
            return anchor_places(batch.num_anchors, batch.row.device)
        return batch.group[0] if batch.text_group is None else batch.text_group[0]
