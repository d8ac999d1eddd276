"""Linear probe: L2-penalised logistic regression on fixed features, its cost chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lgrep.evaluation.average_precision import mean_average_precision
from lgrep.evaluation.contract import Metric
from lgrep.evaluation.cost_path import (
    COARSE_COSTS,
    CostPath,
    LinearClassifier,
    coarse_fine_search,
    grid_search,
)
from lgrep.evaluation.linear_backends import FINAL, Fits, newton_fits

__all__ = [
    "COARSE_COSTS",
    "C_GRID",
    "LinearClassifier",
    "LinearResult",
    "Scaler",
    "fit_logistic",
    "holdout_split",
    "linear_probe",
    "mean_per_class",
    "measure",
    "top1",
]

C_GRID = tuple(10.0**exponent for exponent in range(-4, 3))


@dataclass
class LinearResult:
    """Outcome of `linear_probe`.

    Attributes:
        c: the chosen inverse penalty.
        validation: validation score of every C that was tried.
        predictions: Long[M], most likely class of every test row.
        scores: [M, K] logits of the test rows.
        classifier: the final fit; expects features scaled by `scaler`.
    """

    c: float
    validation: dict[float, float]
    predictions: Tensor
    scores: Tensor
    classifier: LinearClassifier
    scaler: Scaler


@dataclass
class Scaler:
    """Per-feature mean and standard deviation of the training rows; constant features are only centred."""

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Scaler:
        """Statistics of `features` [N, D], in float64, population standard deviation (divisor N)."""
        wide = features.double()
        mean, std = wide.mean(0), wide.std(0, correction=0)
        constant = std <= 1e-6 * wide.abs().amax(0)
        return cls(mean.to(features), std.masked_fill(constant, 1.0).to(features))

    @classmethod
    def identity(cls, features: Tensor) -> Scaler:
        """Leaves features [N, D] as they are."""
        return cls(features.new_zeros(features.shape[1]), features.new_ones(features.shape[1]))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


def top1(predictions: Tensor, labels: Tensor) -> float:
    """Share of equal entries."""
    return (predictions == labels).double().mean().item()


def mean_per_class(predictions: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur in `labels` of the share of their rows that is right."""
    classes, index = torch.unique(labels, return_inverse=True)
    right = torch.zeros(len(classes), dtype=torch.float64, device=labels.device)
    right.index_add_(0, index, (predictions == labels).double())
    return float((right / index.bincount(minlength=len(classes))).mean())


def measure(metric: Metric, scores: Tensor, labels: Tensor) -> float:
    """What a data set's leaderboard counts, of class scores [M, K].

    Args:
        metric: `top1`, `mean_per_class`, `map11` (mean over classes of 11-point average precision) or `roc_auc`
            (of the second of two classes; with several classes per row the mean over classes).
        scores: logits or probabilities.
        labels: Long[M]; bool [M, K] for `map11`, and for `roc_auc` with several classes per row.
    """
    if metric == "map11":
        return mean_average_precision(scores, labels)
    if metric == "roc_auc":
        from sklearn.metrics import roc_auc_score

        likeness = scores[:, 1] - scores[:, 0] if labels.ndim == 1 else scores
        return float(roc_auc_score(labels.cpu().numpy(), torch.nan_to_num(likeness.double()).cpu().numpy()))
    return (mean_per_class if metric == "mean_per_class" else top1)(scores.argmax(1), labels)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    c: float,
    num_classes: int,
    start: LinearClassifier | None = None,
    tolerance: float = FINAL,
    max_iterations: int = 200,
) -> LinearClassifier:
    """Minimise sum_i loss_i + |W|^2 / (2 C), scikit-learn's meaning of C; the bias is not penalised.

    For several costs on the same features use `CostPath`, which also documents the arguments.
    """
    return CostPath(features, labels, num_classes, tolerance, max_iterations).fit(c, start)


def holdout_split(labels: Tensor, share: float, seed: int, stratified: bool = True) -> tuple[Tensor, Tensor]:
    """Ascending row numbers (kept, held out); the same for the same labels and seed.

    Args:
        labels: Long[N], or bool [N, K], which is never stratified.
        share: of the rows (of every class when `stratified`, rounded; one row at least stays) that is held out.
        seed: of the draw.
        stratified: whether every class is split by itself.
    """
    import numpy as np

    draw = np.random.RandomState(seed)  # the legacy generator's stream is frozen for good
    labels = labels.cpu()
    groups = [torch.arange(len(labels))]
    if stratified and labels.ndim == 1:
        groups = [(labels == label).nonzero()[:, 0] for label in torch.unique(labels).tolist()]
    out = torch.zeros(len(labels), dtype=torch.bool)
    for rows in groups:
        count = min(round(share * len(rows)), len(rows) - 1)
        out[rows[torch.from_numpy(draw.permutation(len(rows))[:count])]] = True
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]


def linear_probe(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    test: Tensor,
    num_classes: int,
    c_grid: Sequence[float] = C_GRID,
    standardise: bool = True,
    select_by: Metric = "mean_per_class",
    search: Literal["grid", "coarse_fine"] = "grid",
    refit: bool = True,
    fits: Fits = newton_fits,
) -> LinearResult:
    """Choose C on validation, refit on train + validation, predict the test rows once.

    C is the one of best score on validation. With `standardise` every feature is shifted and scaled by the
    statistics of the rows being fitted (train while choosing, train + validation for the refit).

    Args:
        train: (features [N, D], labels Long[N] or bool [N, K]).
        validation: the same for choosing C.
        test: features [M, D].
        num_classes: K.
        c_grid: inverse penalties in scikit-learn's convention; for `coarse_fine` those of the first stage.
        standardise: scale the features first.
        select_by: validation score.
        search: `grid` tries every value; `coarse_fine` is `coarse_fine_search`.
        refit: False keeps the fit on train alone.
        fits: makes the fits, see `lgrep.evaluation.linear_backends`.
    """
    if not c_grid:
        raise ValueError("the grid of C values is empty")
    make_scaler = Scaler.fit if standardise else Scaler.identity
    scaler = make_scaler(train[0])
    path = fits(scaler(train[0]), train[1], num_classes, not refit)
    held_out = scaler(validation[0])

    def score(c: float) -> float:
        return measure(select_by, path.fit(c).scores(held_out), validation[1])

    found = (grid_search if search == "grid" else coarse_fine_search)(score, c_grid)
    final = path.fit(found.c)
    if refit:
        both, labels = torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])
        scaler = make_scaler(both)
        final = fits(scaler(both), labels, num_classes, True).fit(found.c, final)
    scores = final.scores(scaler(test))
    return LinearResult(found.c, found.values, scores.argmax(1), scores, final, scaler)
