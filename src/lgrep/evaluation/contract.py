"""What evaluation data sets, models and evaluators are to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lgrep.evaluation.features import Pictures, Transform

Metric = Literal["top1", "mean_per_class", "map11", "roc_auc"]


@dataclass(frozen=True)
class Score:
    """What one evaluator measured; iterating gives (name, value).

    Attributes:
        evaluator: its name, for example "knn".
        settings: everything that defines the number, plain JSON types.
        values: name -> value; accuracies in [0, 1].
        predictions: name -> Long[M], one small non-negative integer per query (predicted class, or rank).
        headline: the names that the printed table shows.
    """

    evaluator: str
    settings: dict[str, Any]
    values: dict[str, float]
    predictions: dict[str, Tensor] = field(default_factory=dict)
    headline: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self.values.items())


@dataclass(frozen=True)
class Part:
    """Some pictures of a data set with their labels.

    Attributes:
        pictures: N pictures by position.
        labels: Long[N] classes, -1 where a picture has none; bool [N, C] where a picture has several.
        captions: one list of captions per picture, where there are any.
        pool: pictures that hold this part's; parts with the same pool (the same object) share one pass of the encoder.
        positions: Long[N], places of this part's pictures in `pool`.
    """

    pictures: Pictures
    labels: Tensor
    captions: list[list[str]] | None = None
    pool: Pictures | None = None
    positions: Tensor | None = None


class EvaluationSet(Protocol):
    """A data set that models are measured on.

    Attributes:
        name: of its catalogue file.
        data_hash: identity of pictures and labels, kept in records.
        mean, std: channel statistics in [0, 1] of its training pictures, for encoders without their own.
        num_classes: C; 0 without classes.
        class_names: for zero-shot prompts, one per class; empty when unknown.
        templates: zero-shot prompts with one `{}` each; empty when unknown.
        metric: what its leaderboard counts.
        notes: protocol footnotes for reports, for example that a split differs from the published one.

    A set may also have `settings`, a dict of plain JSON types that chose its parts (folds, seed of a split), which is
    kept in records, and parts of further names for an evaluator of its own.
    """

    name: str
    data_hash: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_classes: int
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    metric: Metric
    notes: tuple[str, ...]

    def parts(self) -> dict[str, Part]:
        """`train`, `validation` (absent where none was published) and `test`; the same objects at every call."""
        ...


class TextEncoder(Protocol):
    """The text side of an image-text model."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Unit float32 embeddings [N, E] of texts."""
        ...


@dataclass
class Subject:
    """A model under measurement.

    Attributes:
        name: as it was asked for.
        encoder: pictures [B, 3, H, W] -> features [B, D].
        transform: PIL picture -> Tensor [3, H, W], deterministic.
        weights_hash: of the encoder.
        text: its text tower; None for models of pictures only.
        to_text_space: image features [N, D] -> unit embeddings [N, E] that `text` is compared with.
        logit_scale: multiplier of their cosines.
        budget: what training took; None when unknown.
    """

    name: str
    encoder: nn.Module
    transform: Transform
    weights_hash: str
    text: TextEncoder | None = None
    to_text_space: Callable[[Tensor], Tensor] | None = None
    logit_scale: float = 1.0
    budget: dict[str, Any] | None = None


@dataclass
class Task:
    """One model on one data set: what an evaluator is given.

    Attributes:
        subject: the model.
        dataset: the data.
        features_of: part name -> float32 [N, D] on the CPU, in the order of the part's pictures; computed once
            (one pass, kept in the feature cache) whoever asks.
        seed: of everything that an evaluator draws.
        device: where heavy work may run.
        batch_size: pictures per forward pass, for evaluators that run the encoder themselves.
        workers: processes that decode.
        features_with: another transform -> `features_of` with it, for protocols that bring their own.
        features_from: pictures that are no part of the data set, and a name for what they hold -> float32 [N, D] on
            the CPU, kept in the feature cache.
    """

    subject: Subject
    dataset: EvaluationSet
    features_of: Callable[[str], Tensor]
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 256
    workers: int = 0
    features_with: Callable[[Transform], Callable[[str], Tensor]] | None = None
    features_from: Callable[[Pictures, str], Tensor] | None = None

    def labels_of(self, part: str) -> Tensor:
        """Labels of a part."""
        return self.dataset.parts()[part].labels

    def split(self, part: str) -> tuple[Tensor, Tensor]:
        """(features, labels) of a part."""
        return self.features_of(part), self.labels_of(part)

    def has(self, part: str) -> bool:
        """Whether the data set has this part."""
        return part in self.dataset.parts()


class Evaluator(Protocol):
    """Measures a model on a data set; built from `configs/evaluation/NAME.yaml`, its arguments are its settings.

    Attributes:
        name: as in `evaluation=NAME`.
    """

    name: str

    def refusal(self, task: Task) -> str | None:
        """Why this model or data set cannot be measured so (one line: no text tower, no classes, ...); else None."""
        ...

    def __call__(self, task: Task) -> Iterator[Score]:
        """Measure."""
        ...
