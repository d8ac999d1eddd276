"""Evaluation tasks made for tests: features as given, or pictures with an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.evaluation.contract import Part, Subject, Task


@dataclass
class MadeSet:
    """A data set of given parts."""

    made: dict[str, Part]
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    metric: Any = "top1"
    name: str = "made"
    data_hash: str = "0" * 16
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    notes: tuple[str, ...] = field(default_factory=tuple)

    def parts(self) -> dict[str, Part]:
        return self.made


def feature_task(
    splits: dict[str, tuple[Tensor, Tensor]],
    captions: dict[str, list[list[str]]] | None = None,
    text: Any = None,
    to_text_space: Any = None,
    seed: int = 0,
    **about: Any,
) -> Task:
    """A task whose features are given: part -> (features, labels)."""
    pictures: Any = []
    parts = {part: Part(pictures, labels, (captions or {}).get(part)) for part, (_, labels) in splits.items()}
    first = next(iter(splits.values()))[1]
    about.setdefault("num_classes", first.shape[1] if first.ndim == 2 else int(first.max()) + 1)
    subject = Subject("given", nn.Identity(), EvaluationTransform(32), "0" * 16, text, to_text_space)
    return Task(subject, MadeSet(parts, **about), lambda part: splits[part][0], seed)


def clusters(
    classes: int, per_class: int, dim: int = 16, spread: float = 1.0, seed: int = 0, centres: int = 0
) -> tuple[Tensor, Tensor]:
    """Features around a centre per class, shuffled; parts with equal `centres` have the same centres."""
    middle = torch.randn(classes, dim, generator=torch.Generator().manual_seed(1000 + centres))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(per_class)[torch.randperm(classes * per_class, generator=generator)]
    return middle[labels] + spread * torch.randn(len(labels), dim, generator=generator), labels
