"""t-ReX: supervised training whose representation transfers: multi-crop, an expendable projector, class means."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import cosine_softmax_logits
from lgrep.methods.base import Method, StepOutput, check_classes, views_by_size
from lgrep.methods.modules.class_mean_memory import ClassMeanMemory
from lgrep.methods.modules.heads import TrexProjector
from lgrep.methods.modules.teacher import Teacher
from lgrep.methods.supervised import classified


class TReX(Method):
    """t-ReX (Sariyildiz et al., arXiv 2206.15369): eq. 1 with learned class weights, eq. 2 with a memory.

    Args:
        backbone: image encoder.
        num_classes: C, of the data.
        hidden_layers: of the projector: 3 transfers best (t-ReX), 1 keeps the training task (t-ReX*).
        hidden_dim, bottleneck_dim: widths of the projector.
        normalise_input: whether the projector sees features of unit length.
        temperature: of the softmax over cosine similarities; None: plain inner products.
        memory_size: embeddings of the teacher from which class prototypes are made (online class means);
            0: learned class weights, without a teacher.
        momentum: of the teacher, constant.
    """

    needs_labels = True
    compares_pictures = False

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        hidden_layers: NonNegativeInt = 3,
        hidden_dim: PositiveInt = 2048,
        bottleneck_dim: PositiveInt = 256,
        normalise_input: bool = True,
        temperature: PositiveFloat | None = 0.1,
        memory_size: NonNegativeInt = 8192,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.999,
    ) -> None:
        super().__init__(backbone)
        check_classes(num_classes)
        self.temperature, self.momentum = temperature, momentum
        self.projector = TrexProjector(backbone.dim, hidden_layers, hidden_dim, bottleneck_dim, normalise_input)
        self.memory = ClassMeanMemory(memory_size, bottleneck_dim, num_classes) if memory_size else None
        self.classifier = None if memory_size else nn.Linear(bottleneck_dim, num_classes, bias=False)
        self.teacher = Teacher(backbone=self.backbone, projector=self.projector) if memory_size else None

    def before_step(self) -> None:
        """As published, the teacher steps with the weights of this forward pass; it then fills the memory."""
        if self.teacher is not None:
            self.teacher.follow(self.momentum, backbone=self.backbone, projector=self.projector)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = self.projector(features)
        weights = self.memory.class_weights() if self.memory is not None else self.classifier.weight  # type: ignore[union-attr]
        logits = cosine_softmax_logits(embeddings, weights, self.temperature)
        loss, accuracy = classified(logits, batch.label.flatten())
        self._remember(batch)
        return StepOutput(loss, features, embeddings, {"accuracy": accuracy})

    @torch.no_grad()
    def _remember(self, batch: Batch) -> None:
        if self.memory is None or self.teacher is None:
            return
        first = next(iter(views_by_size(batch).values()))[0]
        seen: Tensor = self.teacher["projector"](self.encode(batch.select([first]), self.teacher["backbone"]))
        self.memory.update(seen, batch.label[first])
