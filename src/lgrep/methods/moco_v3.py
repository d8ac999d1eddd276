"""MoCo v3: contrast predictions with a momentum teacher's keys of the same batch."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.errors import ConfigError
from lgrep.losses import moco_v3
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view
from lgrep.methods.modules.teacher import Teacher, cosine_momentum


class MoCoV3(Method):
    """MoCo v3 (Chen et al., arXiv 2104.02057, algorithm 1).

    Args:
        backbone: image encoder.
        temperature: of the softmax over cosine similarities.
        projector_dims: widths of the projector, which ends in a BatchNorm without scale and shift.
        predictor_dims: widths of the predictor, which ends likewise; the last one is the projector's.
        momentum: of the teacher at the start; it rises to 1 along a cosine.
        freeze_patch_embed: keep a ViT's random patch projection (section 4 of the paper).
    """

    exact_views = 2

    def __init__(
        self,
        backbone: Backbone,
        temperature: PositiveFloat = 0.2,
        projector_dims: tuple[PositiveInt, ...] = (4096, 4096, 256),
        predictor_dims: tuple[PositiveInt, ...] = (4096, 256),
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.99,
        freeze_patch_embed: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.temperature, self.momentum = temperature, momentum
        if freeze_patch_embed:
            if not hasattr(backbone, "patch_embed"):
                raise ConfigError(
                    f"backbone {backbone.name} has no patch embedding. Type method.freeze_patch_embed=false"
                )
            backbone.patch_embed.requires_grad_(False)
        self.projector = MLPHead(backbone.dim, projector_dims, bias=False, last_norm=True, last_affine=False)
        width = self.projector.out_dim
        self.predictor = MLPHead(width, predictor_dims, bias=False, last_norm=True, last_affine=False)
        self.teacher = Teacher(backbone=self.backbone, projector=self.projector)

    def before_step(self) -> None:
        """As published, the teacher has taken its step when it makes the keys."""
        momentum = cosine_momentum(self.momentum, self.progress)
        self.teacher.follow(momentum, backbone=self.backbone, projector=self.projector)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, 2)
        qa, qb = apply_per_view(self.predictor, embeddings, 2).chunk(2)
        with torch.no_grad():
            targets = self.encode(batch, self.teacher["backbone"])
            ka, kb = apply_per_view(self.teacher["projector"], targets, 2).chunk(2)
        loss = moco_v3(qa, qb, ka, kb, self.temperature)
        return StepOutput(loss, features, embeddings, {})
