"""DINO: match a centred teacher's distribution over prototypes from all crops."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import batch_center, dino
from lgrep.methods.base import Method, StepOutput, views_by_size
from lgrep.methods.modules.multi_crop import in_batch_order
from lgrep.methods.modules.prototypes import DinoHead
from lgrep.methods.modules.teacher import Teacher, cosine_momentum, warmed_up

Share = Annotated[float, Field(ge=0, le=1)]


class DINO(Method):
    """DINO (Caron et al., arXiv 2104.14294, eq. 2 to 4); views of the largest size are the teacher's.

    Shares are of the run's steps: the published 30 of 100 epochs of warm-up are 0.3.

    Args:
        backbone: image encoder.
        prototypes: K, outputs of the head.
        hidden_dim, bottleneck_dim: widths of the head.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's, after its warm-up.
        warmup_teacher_temperature: at the start.
        warmup_share: share of the run over which it rises linearly.
        momentum: of the teacher at the start; it rises to 1 along a cosine.
        targets: `centering`, or `sinkhorn` (DINOv2).
        center_momentum: of the running center.
        freeze_share: share of the run in which the prototypes keep still (published: the first epoch).
    """

    min_views = 2
    center: Tensor

    def __init__(
        self,
        backbone: Backbone,
        prototypes: PositiveInt = 65536,
        hidden_dim: PositiveInt = 2048,
        bottleneck_dim: PositiveInt = 256,
        student_temperature: PositiveFloat = 0.1,
        teacher_temperature: PositiveFloat = 0.07,
        warmup_teacher_temperature: PositiveFloat = 0.04,
        warmup_share: Share = 0.3,
        momentum: Share = 0.996,
        targets: Literal["centering", "sinkhorn"] = "centering",
        center_momentum: Share = 0.9,
        freeze_share: Share = 0.01,
    ) -> None:
        super().__init__(backbone)
        self.student_temperature, self.momentum, self.targets = student_temperature, momentum, targets
        self.temperatures = (warmup_teacher_temperature, teacher_temperature, warmup_share)
        self.center_momentum, self.freeze_share = center_momentum, freeze_share
        self.compares_pictures = targets == "sinkhorn"
        self.projector = DinoHead(backbone.dim, prototypes, hidden_dim, bottleneck_dim)
        self.teacher = Teacher(backbone=self.backbone, projector=self.projector)
        self.register_buffer("center", torch.zeros(prototypes))

    def training_loss(self, batch: Batch) -> StepOutput:
        teacher_views = next(iter(views_by_size(batch).values()))
        order = teacher_views + [v for v in range(batch.num_views) if v not in teacher_views]
        batch = batch.select(order)
        features = self.encode(batch)
        scores = self.projector(features)
        with torch.no_grad():
            seen = self.encode(batch.select(range(len(teacher_views))), self.teacher["backbone"])
            targets = self.teacher["projector"](seen).chunk(len(teacher_views))
        temperature = warmed_up(*self.temperatures, self.progress)
        center = self.center if self.targets == "centering" else None
        loss = dino(scores.chunk(batch.num_views), targets, center, self.student_temperature, temperature)
        self.center.lerp_(batch_center(targets).to(self.center), 1.0 - self.center_momentum)
        return StepOutput(loss, in_batch_order(features, order), in_batch_order(scores, order), {})

    def resting(self) -> list[Tensor]:
        return [self.projector.prototypes] if self.progress < self.freeze_share else []

    def after_step(self) -> None:
        momentum = cosine_momentum(self.momentum, self.progress)
        self.teacher.follow(momentum, backbone=self.backbone, projector=self.projector)
