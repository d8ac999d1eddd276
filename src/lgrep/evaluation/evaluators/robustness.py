"""Accuracy on natural variants of a data set: ImageNet-A, -R, -V2 and -Sketch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from lgrep.errors import DataError
from lgrep.evaluation.contract import EvaluationSet, Score, Task
from lgrep.evaluation.datasets.catalogue import build_set
from lgrep.evaluation.datasets.missing import MissingDataset
from lgrep.evaluation.linear import C_GRID, holdout_split, linear_probe, mean_per_class, top1
from lgrep.evaluation.prompts import class_weights, embeddings_by_space, make_prompts
from lgrep.evaluation.tasks import Resources, make_task

VARIANTS = ("imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch")
Head = Literal["linear", "zeroshot"]


class Robustness:
    """A classifier of one data set, measured on variants that have all or some of its classes.

    `linear`: logistic regression on the training part, C chosen on validation (or held-out training pictures).
    `zeroshot`: prompts of the data set, for models with a text tower. A variant's score is among its own classes only,
    as ImageNet-A and -R are counted (Hendrycks et al., arXiv 1907.07174 and 2006.16241); `..._all` is among all classes.
    `..._clean` is the test part's accuracy on and among the same classes, so that the difference is the loss.

    Args:
        variants: names in the catalogue, or YAML files; what is not on this machine is left out, and said in the settings.
        heads: classifiers, as far as the model allows.
        costs: values of C.
        root: folder of the variants; None: that of all data sets.
    """

    name = "robustness"

    def __init__(
        self,
        variants: tuple[str, ...] = VARIANTS,
        heads: tuple[Head, ...] = ("linear", "zeroshot"),
        costs: tuple[PositiveFloat, ...] = C_GRID,
        root: str | None = None,
    ) -> None:
        self.variants, self.heads, self.costs, self.root = variants, heads, costs, root
        self._opened: dict[str, EvaluationSet | str] = {}

    def refusal(self, task: Task) -> str | None:
        if not task.has("test") or task.labels_of("test").ndim != 1:
            return f"{task.dataset.name} has no test part with one class per picture"
        if not self._heads(task):
            return f"{task.subject.name} has no text tower and {task.dataset.name} no training part"
        related = [name for name in self.variants if self._related(name, task.dataset) is not None]
        if related:
            return None
        opened = {name: self._open(name) for name in self.variants}
        missing = [str(found) for found in opened.values() if isinstance(found, str)]
        return (
            missing[0]
            if missing and len(missing) == len(opened)
            else (f"no variant at hand shares classes with {task.dataset.name} ({', '.join(self.variants)})")
        )

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score per head."""
        for head in self._heads(task):
            classify = self._linear(task) if head == "linear" else _zeroshot(task)
            yield self._score(task, head, classify)

    def _score(self, task: Task, head: Head, classify: _Scores) -> Score:
        values: dict[str, float] = {}
        predictions: dict[str, Tensor] = {}
        about: dict[str, Any] = {}
        for name in self.variants:
            related = self._related(name, task.dataset)
            if related is None:
                found = self._open(name)
                about[name] = found if isinstance(found, str) else "shares no classes with the data set"
                continue
            variant, classes = related
            features, labels = _restricted(task, variant, classes)
            clean = _kept(task, "test", torch.isin(task.labels_of("test"), classes))
            among = torch.unique(classes[classes >= 0])
            scores, clean_scores = classify.of(features), classify.of(clean[0])
            key = f"{variant.name}_{head}"
            predictions[key] = among[scores[:, among].argmax(dim=1)]
            values |= {
                key: top1(predictions[key], labels),
                f"{key}_all": top1(scores.argmax(dim=1), labels),
                f"{key}_per_class": mean_per_class(predictions[key], labels),
            }
            if len(clean[1]):
                values[f"{key}_clean"] = top1(among[clean_scores[:, among].argmax(dim=1)], clean[1])
            about[name] = {"pictures": len(labels), "classes": len(among), "data_hash": variant.data_hash}
        settings = {"head": head, "variants": about, **classify.settings}
        headline = tuple(key for key in values if key in predictions)
        return Score(f"robustness_{head}", settings, values, predictions, headline)

    def _heads(self, task: Task) -> list[Head]:
        text = task.subject.text is not None and task.subject.to_text_space is not None and task.dataset.class_names
        possible = {"linear": task.has("train"), "zeroshot": bool(text)}
        return [head for head in self.heads if possible[head]]

    def _open(self, name: str) -> EvaluationSet | str:
        """The variant, or why it is not there."""
        if name not in self._opened:
            try:
                self._opened[name] = build_set(name, **({"root": self.root} if self.root else {}))
            except MissingDataset as error:
                self._opened[name] = str(error)
        return self._opened[name]

    def _related(self, name: str, dataset: EvaluationSet) -> tuple[EvaluationSet, Tensor] | None:
        """A variant and, for each of its classes, the class of the data set or -1; None where it has none of them."""
        variant = self._open(name)
        if isinstance(variant, str):
            return None
        classes = shared_classes(dataset, variant)
        return (variant, classes) if (classes >= 0).any() else None

    def _linear(self, task: Task) -> _Scores:
        train = _kept(task, "train", task.labels_of("train") >= 0)
        if task.has("validation"):
            held = _kept(task, "validation", task.labels_of("validation") >= 0)
            by = "validation"
        else:
            kept, out = holdout_split(train[1], 0.2, task.seed)
            held, train = (train[0][out], train[1][out]), (train[0][kept], train[1][kept])
            by = "a fifth of every class of train"
        result = linear_probe(train, held, train[0][:1], task.dataset.num_classes, self.costs, select_by="top1")

        def scores(features: Tensor) -> Tensor:
            return result.classifier.scores(result.scaler(features))

        return _Scores(scores, {"c": result.c, "c_chosen_on": by, "standardised": True})


def shared_classes(dataset: EvaluationSet, variant: EvaluationSet) -> Tensor:
    """Long[K]: for each class of the variant the same class of the data set, -1 where it has none.

    Classes are the same that have the same number among ImageNet's (`imagenet_classes` of both sets), else the same
    name.
    """
    numbers = [list(getattr(one, "imagenet_classes", None) or []) for one in (dataset, variant)]
    names = [list(one.class_names) for one in (dataset, variant)]
    mine, theirs = numbers if all(numbers) else names
    place = {key: number for number, key in reversed(list(enumerate(mine)))}
    return torch.tensor([place.get(key, -1) for key in theirs], dtype=torch.long)


@dataclass(frozen=True)
class _Scores:
    """Features [N, D] -> scores [N, C] of all classes, and how they came about."""

    of: Any
    settings: dict[str, Any]


def _zeroshot(task: Task) -> _Scores:
    prompts = make_prompts(task.dataset)

    def scores(features: Tensor) -> Tensor:
        images, texts = next(iter(embeddings_by_space(task, features, prompts.texts).values()))
        return images @ class_weights(texts, prompts.members).T

    return _Scores(scores, {"templates": list(prompts.templates), "origins": prompts.origins})


def _restricted(task: Task, variant: EvaluationSet, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the variant's pictures whose class the data set has, with its numbers."""
    part = variant.parts().get("test")
    if part is None:
        raise DataError(f"{variant.name} has no test part")
    known = part.labels >= 0
    known[known.clone()] = classes[part.labels[known]] >= 0
    if task.features_from is not None:
        features = task.features_from(part.pictures, variant.data_hash)
    else:
        resources = Resources(task.device, task.batch_size, task.workers, progress=False)
        features = make_task(task.subject, variant, resources).features_of("test")
    return features[known], classes[part.labels[known]]


def _kept(task: Task, part: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    features, labels = task.split(part)
    return features[rows], labels[rows]
