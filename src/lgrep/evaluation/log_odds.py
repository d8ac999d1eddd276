"""The log-odds score of a transfer suite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

COG_LEVELS = tuple(f"cog_l{level}" for level in range(1, 6))
TRAINED_ON = ("imagenet", "in1k")  # not part of the mean: it is no transfer


def log_odds(accuracy: float, pictures: int) -> float:
    """ln(p / (1 - p)) of an accuracy in [0, 1], which counts gains near 1 as much as those near 0.

    Accuracies of 0 and 1, where it is undefined, are taken half a picture away from there.

    Args:
        accuracy: p, a share of `pictures`.
        pictures: that it was measured on.

    Paper:
        Sariyildiz et al., t-ReX, 2023, https://arxiv.org/abs/2206.15369, section 4.

    >>> log_odds(0.5, 100), round(log_odds(1.0, 100), 4)
    (0.0, 5.2933)
    """
    edge = 0.5 / pictures
    share = min(max(accuracy, edge), 1 - edge)
    return math.log(share / (1 - share))


@dataclass(frozen=True)
class SuiteScore:
    """A model over a transfer suite.

    Attributes:
        mean: of the accuracies.
        mean_log_odds: of their log odds.
        datasets: that the means cover, sorted; scores over other sets do not compare.
        cog: accuracy at every ImageNet-CoG level that was measured, from near to far concepts.
    """

    mean: float
    mean_log_odds: float
    datasets: tuple[str, ...]
    cog: dict[str, float]


def suite_scores(records: Iterable[Mapping[str, Any]], name: str = "transfer") -> dict[str, SuiteScore]:
    """Model -> its score over the data sets of some evaluation records; ImageNet-1K itself is left out.

    Args:
        records: as `evaluate` writes and returns them; those of other evaluators are passed over, and of several of a
            model and data set the last one counts.
        name: of the evaluator and of the value (accuracy) and, with `_log_odds`, of its log odds.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for record in records:
        values = record["values"]
        if record["evaluator"] == name and record["dataset"] not in TRAINED_ON:
            own = found.setdefault(str(record["model"]["name"]), {})
            own[str(record["dataset"])] = (float(values[name]), float(values[f"{name}_log_odds"]))
    return {
        model: SuiteScore(
            sum(accuracy for accuracy, _ in own.values()) / len(own),
            sum(odds for _, odds in own.values()) / len(own),
            tuple(sorted(own)),
            {level: own[level][0] for level in COG_LEVELS if level in own},
        )
        for model, own in found.items()
    }
