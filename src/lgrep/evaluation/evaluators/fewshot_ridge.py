"""Few labelled pictures of every class, and ridge regression in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.episodes import BLOCK, draw_episodes, usable_classes
from lgrep.evaluation.linear import mean_per_class, top1

PENALTIES = tuple(10.0**exponent for exponent in range(-4, 4))
ONE_SHOT_PENALTY = 1.0  # with one picture per class nothing can be held out


class FewshotRidge:
    """All classes at once from k training pictures each; the whole test part; several draws.

    Features are scaled to unit length; a ridge regression with an intercept onto one-hot classes is solved in the dual,
    for all penalties by one eigendecomposition. The penalty, relative to the mean eigenvalue, is the one of best
    leave-one-out accuracy on the k-shot pictures, in closed form: test pictures choose nothing.

    Args:
        shots: pictures per class; classes with fewer training pictures are left out of training and test.
        draws: of the training pictures, whose mean is reported.
        penalties: to choose from.
        seed: of the draws; None: the run's.
    """

    name = "fewshot_ridge"

    def __init__(
        self,
        shots: tuple[PositiveInt, ...] = (1, 5, 10),
        draws: Annotated[int, Field(ge=1, le=BLOCK)] = 3,
        penalties: tuple[PositiveFloat, ...] = PENALTIES,
        seed: NonNegativeInt | None = None,
    ) -> None:
        self.shots, self.draws, self.penalties, self.seed = shots, draws, penalties, seed

    def refusal(self, task: Task) -> str | None:
        for part in ("train", "test"):
            if not task.has(part):
                return f"{task.dataset.name} has no part '{part}'"
        if task.labels_of("train").ndim != 1:
            return f"pictures of {task.dataset.name} have several labels"
        return None if self._possible(task) else f"{task.dataset.name} has no two classes of {min(self.shots)} pictures"

    def _possible(self, task: Task) -> list[int]:
        labels = task.labels_of("train"), task.labels_of("test")
        return [shots for shots in self.shots if len(usable_classes(*labels, shots)) > 1]

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score with an accuracy per number of shots."""
        (train, train_labels), (test, test_labels) = task.split("train"), task.split("test")
        values: dict[str, float] = {}
        predictions: dict[str, Tensor] = {}
        chosen: dict[str, list[float]] = {}
        seed = task.seed if self.seed is None else self.seed
        for shots in self._possible(task):
            classes = usable_classes(train_labels, test_labels, shots)
            asked = torch.isin(test_labels, classes)
            truth = test_labels[asked]
            drawn = next(draw_episodes(train_labels, test_labels, self.draws, len(classes), shots, 1, seed))
            accuracies, per_class = [], []
            for draw, support in enumerate(drawn.support):
                rows = support.flatten()
                number = torch.searchsorted(classes, train_labels[rows])
                scores, penalty = ridge_scores(train[rows], number, test[asked], self.penalties, shots == 1)
                found = classes[scores.argmax(dim=1).cpu()]
                accuracies.append(top1(found, truth))
                per_class.append(mean_per_class(found, truth))
                predictions[f"ridge_{shots}shot_draw{draw}"] = found
                chosen.setdefault(str(shots), []).append(penalty)
            spread = torch.tensor(accuracies, dtype=torch.float64)
            values[f"ridge_{shots}shot"] = spread.mean().item()
            values[f"ridge_{shots}shot_std"] = spread.std(correction=0).item()
            values[f"ridge_{shots}shot_per_class"] = sum(per_class) / len(per_class)
        yield Score("fewshot_ridge", self._settings(seed, chosen), values, predictions, tuple(_plain(values)))

    def _settings(self, seed: int, chosen: dict[str, list[float]]) -> dict[str, Any]:
        return {
            "shots": list(self.shots),
            "draws": self.draws,
            "penalties": list(self.penalties),
            "penalty": chosen,
            "penalty_of": "mean eigenvalue of the centred kernel",
            "chosen_by": "leave-one-out accuracy on the k-shot pictures",
            "draw_seed": seed,
        }


def ridge_scores(
    train: Tensor, labels: Tensor, test: Tensor, penalties: Sequence[float] = PENALTIES, one_shot: bool = False
) -> tuple[Tensor, float]:
    """Scores [M, K] of test rows by ridge regression onto one-hot classes, and the relative penalty chosen.

    Args:
        train: features [N, D].
        labels: Long[N] in [0, K), each class present.
        test: features [M, D].
        penalties: relative to the mean eigenvalue of the centred kernel of the training features.
        one_shot: nothing can be left out; the penalty is `ONE_SHOT_PENALTY`.
    """
    fitted, asked = (normalize(rows.double(), dim=1) for rows in (train, test))
    mean = fitted.mean(dim=0)
    fitted, asked = fitted - mean, asked - mean
    target = one_hot(labels).double()
    offset = target.mean(dim=0)
    kernel = fitted @ fitted.T
    values, vectors = torch.linalg.eigh(kernel)
    projected = vectors.T @ (target - offset)
    scale = kernel.diagonal().mean().clamp_min(1e-12)
    best, chosen, weights = -1.0, ONE_SHOT_PENALTY, projected
    for penalty in (ONE_SHOT_PENALTY,) if one_shot else sorted(penalties):
        ridge = penalty * scale
        inverse = 1 / (values.clamp_min(0) + ridge)
        dual = vectors @ (inverse[:, None] * projected)
        # what a fit (with its own intercept) without that row misses: residual over 1 - leverage
        left_out = ridge * dual / (ridge * vectors.square() @ inverse - 1 / len(labels)).clamp_min(1e-12)[:, None]
        accuracy = top1((target - left_out).argmax(dim=1), labels)
        if accuracy >= best:  # the larger penalty at a tie
            best, chosen, weights = accuracy, penalty, dual
    return asked @ (fitted.T @ weights) + offset, chosen


def _plain(values: dict[str, float]) -> Iterator[str]:
    return (name for name in values if name.endswith("shot"))
