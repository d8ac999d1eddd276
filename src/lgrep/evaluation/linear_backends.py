"""Ways to fit the linear probe besides `CostPath`: plain L-BFGS, lgssl's objective, scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lgrep.errors import ConfigError
from lgrep.evaluation.cost_path import CostPath, LinearClassifier, check_rows
from lgrep.evaluation.logistic import Design

CHOOSING, FINAL = 5e-4, 1e-6  # how near to the minimum fits that choose C, and the last one, are taken


class CostFits(Protocol):
    """Fits of one set of features at any cost."""

    def fit(self, c: float, start: LinearClassifier | None = None) -> LinearClassifier:
        """The classifier at inverse penalty `c`; `start` may be a good place to begin."""
        ...


Fits = Callable[[Tensor, Tensor, int, bool], CostFits]  # (features, labels, classes, whether it is the last fit)


def newton_fits(
    features: Tensor, labels: Tensor, num_classes: int, final: bool, design: Design | None = None, slack: float = 0.0
) -> CostFits:
    """`CostPath`; `slack` is of fits that choose."""
    return CostPath(
        features, labels, num_classes, FINAL if final else CHOOSING, design=design, slack=0.0 if final else slack
    )


def lbfgs_fits(features: Tensor, labels: Tensor, num_classes: int, final: bool) -> CostFits:
    """L-BFGS (Liu & Nocedal, 1989) on the same objective, every fit started at the last one.

    It stops by the largest entry of the gradient (1e-3, the last fit 1e-4) and so, for weak penalties, well
    short of the minimum.
    """
    return Lbfgs(features, labels, num_classes, 1e-4 if final else 1e-3)


class Lbfgs:
    """Fits by torch's L-BFGS.

    Args:
        features: [N, D] floating point.
        labels: Long[N] in [0, num_classes), or bool [N, num_classes]: one binary problem per class.
        num_classes: K.
        tolerance: stop when no entry of the gradient of the mean objective is larger (scikit-learn's `tol`).
        max_iterations: of one fit.

    Raises:
        DataError: labels outside the classes, or features that are not finite.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, tolerance: float = 1e-4, max_iterations: int = 500
    ) -> None:
        check_rows(features, labels, num_classes)
        self.features, self.labels, self.num_classes = features, labels, num_classes
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self._last: LinearClassifier | None = None
        self._fitted: dict[float, LinearClassifier] = {}

    def fit(self, c: float, start: LinearClassifier | None = None) -> LinearClassifier:
        """Started at `start`, else at the last fit; a float32 fit that ends far from its tolerance is redone in float64."""
        if c not in self._fitted:
            start = start or self._last
            result, gradient = self._minimise(self.features, c, start)
            unfinished = not math.isfinite(result.objective) or gradient > 10 * self.tolerance
            if unfinished and self.features.dtype == torch.float32:
                good = result if math.isfinite(result.objective) else start
                result, _ = self._minimise(self.features.double(), c, good)
            result.weight, result.bias = result.weight.to(self.features), result.bias.to(self.features)
            self._fitted[c] = self._last = result
        return self._fitted[c]

    def _minimise(self, features: Tensor, c: float, start: LinearClassifier | None) -> tuple[LinearClassifier, float]:
        count = len(features)
        weight = features.new_zeros(self.num_classes, features.shape[1])
        bias = features.new_zeros(self.num_classes)
        if start is not None:
            weight.copy_(start.weight)
            bias.copy_(start.bias)
        penalty = 1.0 / (c * count)
        several = self.labels.ndim == 2
        target = (self.labels if several else functional.one_hot(self.labels, self.num_classes)).to(features)

        def derive(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = functional.linear(features, weight, bias)
            if several:
                log_p, loss = functional.logsigmoid(logits), functional.softplus(logits).sum() - (target * logits).sum()
            else:
                log_p = torch.log_softmax(logits, dim=1)
                loss = -(log_p * target).sum()
            value = loss / count + 0.5 * penalty * weight.square().sum()
            residual = (log_p.exp() - target) / count
            return value, residual.T @ features + penalty * weight, residual.sum(0)

        steps = run_lbfgs(
            derive,
            weight,
            bias,
            max_iter=self.max_iterations,
            max_eval=2 * self.max_iterations,
            tolerance_grad=self.tolerance,
            tolerance_change=1e-9 if features.dtype == torch.float32 else 1e-12,
            history_size=10,
        )
        value, gradient, slope = derive(weight, bias)
        largest = max(float(gradient.abs().max()), float(slope.abs().max()))
        return LinearClassifier(weight, bias, float(value), steps=steps), largest


class UnsquaredPenalty:
    """lgssl's probe as published: mean cross-entropy + |W| / (2 C), the norm not squared.

    L-BFGS from zero weights with torch's default memory and tolerances, for every C anew; classes are the
    distinct labels of the training rows.

    Args:
        features: [N, D] floating point.
        labels: Long[N] in [0, num_classes).
        num_classes: K.
        max_iterations: of one fit.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, max_iterations: int = 1000) -> None:
        check_rows(features, labels, num_classes)
        if labels.ndim != 1:
            raise ConfigError("reference_behaviour fits one class per picture; type reference_behaviour=false")
        self.features, self.num_classes, self.max_iterations = features, num_classes, max_iterations
        self.classes, self.labels = torch.unique(labels, return_inverse=True)
        self._fitted: dict[float, LinearClassifier] = {}

    def fit(self, c: float, start: LinearClassifier | None = None) -> LinearClassifier:
        """From zero weights, whatever `start` is."""
        if c not in self._fitted:
            weight = self.features.new_zeros(len(self.classes), self.features.shape[1])
            bias = self.features.new_zeros(len(self.classes))
            target = functional.one_hot(self.labels, len(self.classes)).to(self.features)

            def derive(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                log_p = torch.log_softmax(functional.linear(self.features, weight, bias), dim=1)
                norm = weight.norm()
                residual = (log_p.exp() - target) / len(target)
                pull = weight / norm if norm > 0 else torch.zeros_like(weight)  # autograd's choice at 0
                value = -(log_p * target).sum() / len(target) + 0.5 / c * norm
                return value, residual.T @ self.features + 0.5 / c * pull, residual.sum(0)

            steps = run_lbfgs(derive, weight, bias, max_iter=self.max_iterations)
            value = float(derive(weight, bias)[0])
            self._fitted[c] = spread(weight, bias, self.classes, self.num_classes, value, steps)
        return self._fitted[c]


class ScikitLearn:
    """scikit-learn's LogisticRegression, value by value; one binary fit per class where pictures have several.

    Args:
        features: [N, D] floating point.
        labels: Long[N], or bool [N, num_classes].
        num_classes: K.
        max_iterations: its `max_iter`.
        tolerance: its `tol`.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, max_iterations: int = 1000, tolerance: float = 1e-4
    ) -> None:
        check_rows(features, labels, num_classes)
        self.features, self.labels, self.num_classes = features.cpu(), labels.cpu(), num_classes
        self.max_iterations, self.tolerance = max_iterations, tolerance
        self._fitted: dict[float, LinearClassifier] = {}

    def fit(self, c: float, start: LinearClassifier | None = None) -> LinearClassifier:
        """From zero weights, whatever `start` is."""
        if c not in self._fitted:
            self._fitted[c] = self._one_class(c) if self.labels.ndim == 1 else self._several(c)
        return self._fitted[c]

    def _one_class(self, c: float) -> LinearClassifier:
        classes = torch.unique(self.labels)
        if len(classes) == 1:  # scikit-learn refuses it
            weight, bias = self.features.new_zeros(1, self.features.shape[1]), self.features.new_zeros(1)
            return spread(weight, bias, classes, self.num_classes, 0.0, 0)
        weight, bias, steps = self._logistic(self.labels, c)
        if len(classes) == 2:
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        return spread(weight, bias, classes, self.num_classes, math.nan, steps)

    def _several(self, c: float) -> LinearClassifier:
        classes = self.labels.any(0).nonzero()[:, 0]
        weight = self.features.new_zeros(len(classes), self.features.shape[1])
        bias = self.features.new_full((len(classes),), torch.inf)  # of classes that every row has
        steps = 0
        for position, k in enumerate(classes.tolist()):
            if not self.labels[:, k].all():
                one, shift, taken = self._logistic(self.labels[:, k], c)
                weight[position], bias[position], steps = one[0], shift[0], max(steps, taken)
        return spread(weight, bias, classes, self.num_classes, math.nan, steps)

    def _logistic(self, labels: Tensor, c: float) -> tuple[Tensor, Tensor, int]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=c, max_iter=self.max_iterations, tol=self.tolerance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the published probes stop there without a word
            model.fit(self.features.numpy(), labels.numpy())
        weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        return weight.to(self.features), bias.to(self.features), int(model.n_iter_.max())


def run_lbfgs(
    derive: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], weight: Tensor, bias: Tensor, **options: object
) -> int:
    """Minimise in place with torch's L-BFGS and strong-Wolfe line search; returns the number of evaluations.

    Args:
        derive: (weight, bias) -> (value, gradient of weight, gradient of bias).
        weight, bias: where to begin; changed.
        options: of torch.optim.LBFGS.
    """
    evaluations = 0
    parameters = [weight.requires_grad_(), bias.requires_grad_()]

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        with torch.no_grad():
            value, weight.grad, bias.grad = derive(weight, bias)
        return value

    optimiser = torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe", **options)  # type: ignore[arg-type]
    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    return evaluations


def spread(
    weight: Tensor, bias: Tensor, classes: Tensor, num_classes: int, value: float, steps: int
) -> LinearClassifier:
    """A classifier of all classes from one of those in `classes`; the others are never predicted."""
    whole = weight.new_zeros(num_classes, weight.shape[1])
    biases = bias.new_full((num_classes,), -torch.inf)
    whole[classes], biases[classes] = weight, bias
    return LinearClassifier(whole, biases, value, steps=steps)
