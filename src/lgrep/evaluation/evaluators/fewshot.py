"""Few-shot classification by episodes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.episodes import Classifier, EpisodeClassifier, Episodes, draw_episodes, usable_classes

NORMAL_95 = 1.959963985  # half width of a 95 % interval in standard errors


class Fewshot:
    """Accuracy over episodes of a few classes with a few labelled pictures each.

    Language-guided SSL's protocol (El Banani et al., arXiv 2302.12248): support from the training part, queries from
    the test part, the episode's support mean subtracted, unit length, nearest prototype. Episodes follow from the
    labels and the seed, so they are the same for all models.

    Args:
        ways: classes per episode.
        shots: training pictures per class.
        queries: test pictures per class; a class with fewer gives those it has.
        episodes: how many.
        classifier: `prototype`, or `nearest`: the nearest of all support pictures.
        centre: subtract the mean of the support features.
        unit: scale features to unit length.
        seed: of the episodes; None: the run's.
    """

    name = "fewshot"

    def __init__(
        self,
        ways: Annotated[int, Field(ge=2)] = 5,
        shots: PositiveInt = 5,
        queries: PositiveInt = 6,
        episodes: Annotated[int, Field(ge=2)] = 5000,
        classifier: Classifier = "prototype",
        centre: bool = True,
        unit: bool = True,
        seed: NonNegativeInt | None = None,
    ) -> None:
        self.ways, self.shots, self.queries, self.episodes = ways, shots, queries, episodes
        self.classifier, self.centre, self.unit, self.seed = classifier, centre, unit, seed

    def refusal(self, task: Task) -> str | None:
        for part in ("train", "test"):
            if not task.has(part):
                return f"{task.dataset.name} has no part '{part}'"
        labels = task.labels_of("train"), task.labels_of("test")
        if labels[0].ndim != 1:
            return f"pictures of {task.dataset.name} have several labels"
        usable = len(usable_classes(*labels, self.shots))
        if usable < self.ways:
            return (
                f"{self.ways}-way episodes of {self.shots} shots need {self.ways} classes with {self.shots} training "
                f"pictures; {task.dataset.name} has {usable}"
            )
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score; its predictions are the rightly classified queries of every episode."""
        (train, train_labels), (test, test_labels) = task.split("train"), task.split("test")
        seed = task.seed if self.seed is None else self.seed
        drawn = draw_episodes(train_labels, test_labels, self.episodes, self.ways, self.shots, self.queries, seed)
        train, test = train.to(task.device), test.to(task.device)
        classify = EpisodeClassifier(train, test, self.classifier, self.centre, self.unit, self.episodes)
        right, asked = [], []
        for some in drawn:
            right.append(classify(_moved(some, task.device)))
            asked.append(some.valid.sum(dim=(1, 2)))
        hits = torch.cat(right)
        yield Score("fewshot", self._settings(seed), _values(hits, torch.cat(asked)), {"fewshot": hits}, ("fewshot",))

    def _settings(self, seed: int) -> dict[str, Any]:
        return {
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "episodes": self.episodes,
            "classifier": self.classifier,
            "centred": self.centre,
            "unit_length": self.unit,
            "episode_seed": seed,
            "predictions": "rightly classified queries of each episode",
        }


def _values(hits: Tensor, asked: Tensor) -> dict[str, float]:
    accuracy = hits.double() / asked
    std = accuracy.std().item()
    return {
        "fewshot": accuracy.mean().item(),
        "fewshot_ci95": NORMAL_95 * std / math.sqrt(len(accuracy)),
        "fewshot_std": std,
    }


def _moved(episodes: Episodes, device: torch.device) -> Episodes:
    return Episodes(episodes.support.to(device), episodes.query.to(device), episodes.valid.to(device))
