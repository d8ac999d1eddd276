"""A made data set and evaluators for tests of the runner."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import nn

from lgrep.errors import DataError
from lgrep.evaluation.contract import Part, Score, Task
from lgrep.evaluation.datasets.missing import MissingDataset
from lgrep.evaluation.knn import knn_predict
from lgrep.evaluation.linear import top1

COLOURS = [(10, 10, 10), (200, 20, 20), (240, 240, 240)]


class Shades:
    """Dark, red and light pictures; train and test are halves of one pool when `pooled`."""

    data_hash, mean, std, num_classes, metric, notes = "d", (0.5,) * 3, (0.5,) * 3, 3, "top1", ("made",)
    class_names, templates = ("dark", "red", "light"), ()

    def __init__(
        self, name: str = "shades", pooled: bool = True, broken: int = 0, shift: int = 0, here: bool = True
    ) -> None:
        self.name, self.settings = name, {"shift": shift}
        if not here:
            raise MissingDataset(f"{name}: there is no folder. Type options.{name}.here=true")
        colours = [tuple(min(255, c + i + shift) for c in COLOURS[i % 3]) for i in range(12)]
        pool: list[Image.Image | bytes] = [Image.new("RGB", (24, 24), colour) for colour in colours]
        for row in range(broken):
            pool[row] = b"no picture"
        labels = torch.arange(12) % 3
        halves = {"train": torch.arange(6), "test": torch.arange(6, 12)}
        extra = {"pool": pool} if pooled else {}
        self._parts = {
            part: Part([pool[i] for i in rows], labels[rows], positions=rows if pooled else None, **extra)  # type: ignore[arg-type]
            for part, rows in halves.items()
        }

    def parts(self) -> dict[str, Part]:
        return self._parts


class Nearest:
    """The class of the nearest neighbour."""

    name = "nearest"

    def __init__(self, k: int = 1) -> None:
        self.k = k

    def refusal(self, task: Task) -> str | None:
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        predicted = knn_predict(*task.split("train"), task.features_of("test"), k=self.k)
        yield Score(
            "nearest", {"k": self.k}, {"top1": top1(predicted, task.labels_of("test"))}, {"top1": predicted}, ("top1",)
        )


class Draws:
    """Numbers from all global generators, and from the task's seed."""

    name = "draws"

    def refusal(self, task: Task) -> str | None:
        return "it has no colours" if task.dataset.name != "shades" else None

    def __call__(self, task: Task) -> Iterator[Score]:
        drawn = {"torch": torch.rand(()).item(), "numpy": float(np.random.rand()), "python": random.random()}
        yield Score("draws", {}, drawn, headline=("torch",))


class Failing:
    """Yields one score, then ends with an error."""

    name = "failing"

    def refusal(self, task: Task) -> str | None:
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        yield Score("before", {}, {"value": 0.5}, headline=("value",))
        raise DataError("a label is missing")


class Spoiling(Nearest):
    """Changes a weight of the model."""

    def __call__(self, task: Task) -> Iterator[Score]:
        for parameter in task.subject.encoder.parameters():
            nn.init.zeros_(parameter)
        yield from super().__call__(task)
