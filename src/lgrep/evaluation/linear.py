"""Linear probe: L2-penalised multinomial logistic regression fitted by L-BFGS (Liu & Nocedal, 1989)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lgrep.errors import DataError

C_GRID = tuple(10.0**exponent for exponent in range(-4, 3))
PATH_TOLERANCE = 1e-3  # enough to choose C; the refit is held to the tighter default


@dataclass
class LinearClassifier:
    """Weights [K, D] and bias [K], with the objective they reached.

    Attributes:
        objective: mean cross-entropy + |weight|^2 / (2 C N), scikit-learn's objective divided by C N.
        gradient: largest absolute entry of its gradient.
        evaluations: how often objective and gradient were computed.
    """

    weight: Tensor
    bias: Tensor
    objective: float = math.nan
    gradient: float = math.nan
    evaluations: int = 0

    def predict(self, features: Tensor) -> Tensor:
        """Long[N], most likely class of every row of `features` [N, D]."""
        return functional.linear(features.to(self.weight), self.weight, self.bias).argmax(1)


@dataclass
class LinearResult:
    """Outcome of `linear_probe`.

    Attributes:
        c: the chosen inverse penalty.
        validation: mean-per-class accuracy on validation for every C of the grid.
        predictions: Long[M], predicted class of every test row.
        classifier: fitted on train + validation; expects features scaled by `scaler`.
    """

    c: float
    validation: dict[float, float]
    predictions: Tensor
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


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    c: float,
    num_classes: int,
    start: LinearClassifier | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 500,
) -> LinearClassifier:
    """Minimise sum_i CE_i + |W|^2 / (2 C), scikit-learn's meaning of C; the bias is not penalised.

    Computed in the features' dtype; a float32 fit that ends without a finite objective, or away from
    its tolerance before `max_iterations`, is finished in float64.

    Args:
        features: [N, D] floating point.
        labels: Long[N] in [0, num_classes).
        c: inverse penalty, above 0.
        num_classes: K.
        start: where to begin (warm start); zeros when None.
        tolerance: stop when no entry of the gradient of the mean objective is larger
            (scikit-learn's `tol`).
        max_iterations: L-BFGS iterations.

    Raises:
        DataError: labels outside the classes, or features that are not finite.
    """
    _check(features, labels, num_classes)
    if c <= 0:
        raise ValueError(f"C is an inverse penalty and must be above 0, got {c}")
    result = _minimise(features, labels, c, num_classes, start, tolerance, max_iterations)
    unfinished = not math.isfinite(result.objective) or result.gradient > 10 * tolerance
    if unfinished and features.dtype == torch.float32:
        good = result if math.isfinite(result.objective) else start
        result = _minimise(features.double(), labels, c, num_classes, good, tolerance, max_iterations)
    result.weight, result.bias = result.weight.to(features), result.bias.to(features)
    return result


def _minimise(
    features: Tensor,
    labels: Tensor,
    c: float,
    num_classes: int,
    start: LinearClassifier | None,
    tolerance: float,
    max_iterations: int,
) -> LinearClassifier:
    weight = features.new_zeros(num_classes, features.shape[1])
    bias = features.new_zeros(num_classes)
    if start is not None:
        weight.copy_(start.weight)
        bias.copy_(start.bias)
    penalty = 1.0 / (c * len(labels))
    target = functional.one_hot(labels, num_classes).to(features)
    state = {"objective": math.nan, "gradient": math.nan, "evaluations": 0}
    weight.requires_grad_()
    bias.requires_grad_()

    def closure() -> Tensor:
        with torch.no_grad():
            log_p = torch.log_softmax(functional.linear(features, weight, bias), dim=1)
            value = -(log_p * target).sum() / len(labels) + 0.5 * penalty * weight.square().sum()
            residual = (log_p.exp() - target) / len(labels)
            weight.grad = residual.T @ features + penalty * weight
            bias.grad = residual.sum(0)
            state["evaluations"] += 1
        return value

    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=1e-9 if features.dtype == torch.float32 else 1e-12,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    state["objective"] = closure().item()
    assert weight.grad is not None
    assert bias.grad is not None
    state["gradient"] = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    return LinearClassifier(
        weight.detach(), bias.detach(), state["objective"], state["gradient"], int(state["evaluations"])
    )


def linear_probe(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    test: Tensor,
    num_classes: int,
    c_grid: Sequence[float] = C_GRID,
    standardise: bool = True,
) -> LinearResult:
    """Choose C on validation, refit on train + validation, predict the test rows once.

    The grid is walked from the strongest penalty to the weakest, each fit starting at the last one.
    C is the one of best mean-per-class accuracy on validation, the smaller one at a tie. With
    `standardise` every feature is shifted and scaled by the statistics of the rows being fitted (train
    while choosing, train + validation for the refit).

    Args:
        train: (features [N, D], labels Long[N]).
        validation: the same for choosing C.
        test: features [M, D].
        num_classes: K.
        c_grid: inverse penalties in scikit-learn's convention.
        standardise: scale the features first.
    """
    if not c_grid:
        raise ValueError("the grid of C values is empty")
    scaler = _scaler(train[0], standardise)
    x_train, x_validation = scaler(train[0]), scaler(validation[0])
    fitted: LinearClassifier | None = None
    accuracy: dict[float, float] = {}
    path: dict[float, LinearClassifier] = {}
    for c in sorted(c_grid):
        fitted = path[c] = fit_logistic(x_train, train[1], c, num_classes, fitted, PATH_TOLERANCE)
        accuracy[c] = mean_per_class(fitted.predict(x_validation), validation[1])
    best = max(accuracy, key=lambda c: (accuracy[c], -c))
    both = torch.cat([train[0], validation[0]])
    labels = torch.cat([train[1], validation[1]])
    scaler = _scaler(both, standardise)
    final = fit_logistic(scaler(both), labels, best, num_classes, path[best])
    return LinearResult(best, accuracy, final.predict(scaler(test)), final, scaler)


def _scaler(features: Tensor, standardise: bool) -> Scaler:
    if standardise:
        return Scaler.fit(features)
    return Scaler(features.new_zeros(features.shape[1]), features.new_ones(features.shape[1]))


def _check(features: Tensor, labels: Tensor, num_classes: int) -> None:
    if features.ndim != 2 or len(features) != len(labels) or not len(labels):
        raise DataError(f"features must be [N, D] with N labels, got {tuple(features.shape)} and {len(labels)} labels")
    if not torch.isfinite(features).all():
        rows = (~torch.isfinite(features).all(1)).nonzero()[:3, 0].tolist()
        raise DataError(f"features hold NaN or infinite values, first in rows {rows}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(f"labels must lie in [0, {num_classes}), got values from {low} to {high}")
