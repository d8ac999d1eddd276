"""Per class results and confusion from stored predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgrep.errors import LgrepError
from lgrep.evaluation.contract import EvaluationSet
from lgrep.evaluation.datasets.catalogue import build_set
from lgrep.records import read_predictions


@dataclass
class Predicted:
    """Predictions of one model on the test part of a data set.

    Attributes:
        model, dataset, evaluation: whose.
        labels, predictions: Long [N].
        class_names: may be empty.
    """

    model: str
    dataset: str
    evaluation: str
    labels: Tensor
    predictions: Tensor
    class_names: tuple[str, ...]

    def per_class(self) -> list[tuple[str, int, float]]:
        """(class, test pictures, share of them that is right), the hardest first."""
        found = []
        for label in torch.unique(self.labels).tolist():
            own = self.labels == label
            right = float((self.predictions[own] == label).double().mean())
            found.append((self.name(label), int(own.sum()), right))
        return sorted(found, key=lambda entry: entry[2])

    def confusion(self) -> Tensor:
        """Long [C, C]: rows are true classes."""
        count = int(max(self.labels.max(), self.predictions.max())) + 1
        return torch.bincount(self.labels * count + self.predictions, minlength=count**2).view(count, count)

    def confused(self, most: int = 10) -> list[tuple[str, str, int]]:
        """(true class, predicted class, how often) of the most frequent mistakes."""
        matrix = self.confusion().fill_diagonal_(0)
        order = matrix.flatten().argsort(descending=True, stable=True)[:most].tolist()
        pairs = [(place // len(matrix), place % len(matrix), int(matrix.flatten()[place])) for place in order]
        return [(self.name(true), self.name(other), count) for true, other, count in pairs if count]

    def name(self, label: int) -> str:
        """Name of a class, or its number."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


def predicted(records: list[dict[str, Any]]) -> Iterator[Predicted]:
    """Predictions whose data set is here and unchanged, of single-label test parts."""
    sets: dict[str, EvaluationSet | None] = {}
    for record in records:
        name = record["dataset"]
        if name not in sets:
            sets[name] = _opened(record)
        dataset = sets[name]
        if dataset is None or dataset.data_hash != record["data_hash"]:
            continue
        labels = dataset.parts()["test"].labels
        if labels.ndim != 1:
            continue
        for kind, values in read_predictions(record["file"]).items():
            if len(values) == len(labels) and kind == record["evaluator"]:
                found = torch.from_numpy(values.astype(np.int64))
                classes = tuple(dataset.class_names)
                yield Predicted(record["model"]["name"], name, record["evaluation"], labels, found, classes)


def _opened(record: dict[str, Any]) -> EvaluationSet | None:
    try:
        dataset = build_set(record["dataset"], **record.get("dataset_settings") or {})
        return dataset if "test" in dataset.parts() else None
    except (LgrepError, TypeError):
        return None
