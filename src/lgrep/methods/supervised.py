"""Supervised classification with cross-entropy: the baseline of every table."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses.gather import global_rows
from lgrep.methods.base import Method, StepOutput, check_classes


class Supervised(Method):
    """Cross-entropy of a linear classifier on the features of all views.

    Args:
        backbone: image encoder.
        num_classes: C, of the data.
        label_smoothing: share of the target spread over all classes.
    """

    needs_labels = True
    compares_pictures = False

    def __init__(
        self, backbone: Backbone, num_classes: int, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ) -> None:
        super().__init__(backbone)
        check_classes(num_classes)
        self.label_smoothing = label_smoothing
        self.classifier = nn.Linear(backbone.dim, num_classes)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        logits = self.classifier(features)
        loss, accuracy = classified(logits, batch.label.flatten(), self.label_smoothing)
        return StepOutput(loss, features, logits, {"accuracy": accuracy})


def classified(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the global batch, and this process's accuracy.

    Args:
        logits: [n, C], this process's rows; n may differ between processes.
        labels: Long [n]; -1 counts 0 and stays in the mean.
        label_smoothing: share of the target spread over all classes.
    """
    rows = global_rows(len(logits))
    total = cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum", ignore_index=-1)
    accuracy = (logits.detach().argmax(dim=1) == labels).to(torch.float32).mean()
    return rows.world_size * total / rows.total, accuracy
