"""BYOL: predict a slowly moving teacher's embedding of the other view."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import negative_cosine
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view
from lgrep.methods.modules.teacher import Teacher, cosine_momentum


class BYOL(Method):
    """BYOL (Grill et al., arXiv 2006.07733, eq. 2, both directions added).

    Args:
        backbone: image encoder.
        projector_dims: widths of the projector.
        predictor_dims: widths of the predictor; the last one is the projector's.
        momentum: of the teacher at the start; it rises to 1 along a cosine.
    """

    exact_views = 2
    compares_pictures = False

    def __init__(
        self,
        backbone: Backbone,
        projector_dims: tuple[PositiveInt, ...] = (4096, 256),
        predictor_dims: tuple[PositiveInt, ...] = (4096, 256),
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.996,
    ) -> None:
        super().__init__(backbone)
        self.momentum = momentum
        self.projector = MLPHead(backbone.dim, projector_dims)
        self.predictor = MLPHead(self.projector.out_dim, predictor_dims)
        self.teacher = Teacher(backbone=self.backbone, projector=self.projector)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, 2)
        pa, pb = apply_per_view(self.predictor, embeddings, 2).chunk(2)
        with torch.no_grad():
            targets = self.encode(batch, self.teacher["backbone"])
            ta, tb = apply_per_view(self.teacher["projector"], targets, 2).chunk(2)
        loss = negative_cosine(pa, tb) + negative_cosine(pb, ta)
        return StepOutput(loss, features, embeddings, {})

    def after_step(self) -> None:
        momentum = cosine_momentum(self.momentum, self.progress)
        self.teacher.follow(momentum, backbone=self.backbone, projector=self.projector)
