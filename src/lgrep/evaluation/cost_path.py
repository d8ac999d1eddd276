"""Logistic regression at many costs on the same features, every fit started from its neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from lgrep.errors import DataError
from lgrep.evaluation.logistic import Design, Link, Problem, Sigmoid, Softmax
from lgrep.evaluation.newton import Point, minimise, objective, squares

NEIGHBOURS = 4  # points of the polynomial that predicts the next solution
KEPT, KEPT_BYTES = 64, 2**29  # solutions, and bytes of them, kept for such predictions
COARSE_COSTS = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6)
FINE_VALUES = 29


@dataclass
class LinearClassifier:
    """Weights [K, D] and bias [K], with the objective they reached.

    Classes without a training row have weight 0 and bias -inf: they are never predicted.

    Attributes:
        objective: mean loss + penalty, scikit-learn's objective divided by C N.
        gap: estimate of how far that is above the minimum, as a share of it.
        steps: iterations of the solver.
    """

    weight: Tensor
    bias: Tensor
    objective: float = math.nan
    gap: float = math.nan
    steps: int = 0

    def scores(self, features: Tensor) -> Tensor:
        """[N, K] logits of every row of `features` [N, D]."""
        return functional.linear(features.to(self.weight), self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """Long[N], most likely class of every row of `features` [N, D]."""
        return self.scores(features).argmax(1)


class CostPath:
    """Minimises sum_i loss_i + |W|^2 / (2 C) for any number of C, scikit-learn's meaning of C.

    The bias is not penalised. One class per row: cross-entropy over the classes that occur; with two of them
    scikit-learn's binary objective, whose one weight vector is the difference of the two here. Several
    classes per row: one binary problem per class.

    A fit starts where the polynomial through the nearest solutions in log C points to (or at the nearest
    solution, where that is better). A float32 fit that does not converge is finished in float64.

    Args:
        features: [N, D] floating point; half precision is widened to float32.
        labels: Long[N] in [0, num_classes), or bool [N, num_classes].
        num_classes: K.
        tolerance: stop when the objective is estimated to lie within this share of its minimum, see `minimise`.
        max_iterations: Newton steps of one fit.
        design: of these features, float32, where it is known already (see `Design.subset`).
        slack: nats per row that an objective may lie above its minimum in any case.

    Raises:
        DataError: labels outside the classes, or features that are not finite.

    >>> path = CostPath(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> [round(float(path.fit(c).weight[1, 0]), 2) for c in (0.1, 1.0)]
    [0.09, 0.48]
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        tolerance: float = 1e-5,
        max_iterations: int = 200,
        design: Design | None = None,
        slack: float = 0.0,
    ) -> None:
        check_rows(features, labels, num_classes)
        self.num_classes, self.tolerance, self.max_iterations = num_classes, tolerance, max_iterations
        self.dim = features.shape[1]
        features = features if features.dtype == torch.float64 else features.float()
        settings = (labels, num_classes, tolerance, max_iterations)
        self._solver = _Solver(features, *settings, design, slack)
        self._slack = slack
        self._wide: Callable[[], _Solver] = lambda: _Solver(features.double(), *settings)
        self._finisher: _Solver | None = None
        self._fitted: dict[float, LinearClassifier] = {}

    def fit(self, c: float, start: LinearClassifier | None = None) -> LinearClassifier:
        """The classifier for one C, kept for the next call with the same.

        Args:
            c: inverse penalty, above 0.
            start: a further candidate to begin at.
        """
        if not c > 0 or not math.isfinite(c):
            raise ValueError(f"C is an inverse penalty and must be above 0, got {c}")
        if c not in self._fitted:
            fitted = self._solver.fit(c, start)
            if self._solver.dtype == torch.float32 and not _finished(fitted, self.tolerance, self._slack):
                self._finisher = self._finisher or self._wide()
                fitted = self._finisher.fit(c, fitted if math.isfinite(fitted.objective) else start)
                fitted.weight, fitted.bias = fitted.weight.float(), fitted.bias.float()
            self._fitted[c] = fitted
        return self._fitted[c]


class _Solver:
    """Fits in one precision."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        tolerance: float,
        max_steps: int,
        design: Design | None = None,
        slack: float = 0.0,
    ) -> None:
        self.dtype, self.num_classes, self.tolerance, self.max_steps = features.dtype, num_classes, tolerance, max_steps
        self.rows, self.slack = len(features), slack
        self.design = design or Design(features)
        self.link: Link
        labels = labels.to(features.device)
        if labels.ndim == 1:
            self.classes, inverse = torch.unique(labels, return_inverse=True)
            self.link = Softmax(inverse)
        else:
            self.classes = labels.any(0).nonzero()[:, 0]
            self.link = Sigmoid(labels[:, self.classes].to(features))
        self.problem = Problem(self.design, self.link, len(self.classes))
        # scikit-learn fits one weight vector to two classes; as two opposite ones it has half its squared norm
        self.factor = 2.0 if labels.ndim == 1 and len(self.classes) == 2 else 1.0
        self.points: dict[float, Point] = {}  # by log C

    def fit(self, c: float, start: LinearClassifier | None) -> LinearClassifier:
        penalty = self.factor / (c * self.rows)
        begin = self._predicted(math.log(c), penalty)
        if start is not None or begin is None:
            other = self._elsewhere(start)
            worth = _worth(objective(self.problem, other, penalty))
            begin = other if begin is None or worth < _worth(objective(self.problem, begin, penalty)) else begin
        point = minimise(self.problem, penalty, begin, self.tolerance, self.max_steps, self.slack)
        if math.isfinite(point.objective):
            self._keep(math.log(c), point)
        return self._classifier(point)

    def _elsewhere(self, start: LinearClassifier | None) -> Point:
        """A given classifier, or zeros."""
        if start is None:
            weight = self.design.rows.new_zeros(len(self.classes), self.design.rows.shape[1])
        else:
            bias = start.bias[self.classes]
            bias = torch.where(torch.isfinite(bias), bias, bias.new_zeros(()))
            weight = self.design.turned(start.weight[self.classes], bias)
        return Point(weight, self.design.logits(weight))

    def _predicted(self, log_c: float, penalty: float) -> Point | None:
        """The best of: the nearest solution, and where the line and the cubic through the nearest ones lead."""
        nearest = sorted(self.points, key=lambda other: abs(other - log_c))[:NEIGHBOURS]
        found: tuple[float, list[float]] | None = None
        for count in (1, 2, 4):
            if count > len(nearest):
                break
            points = [self.points[known] for known in nearest[:count]]
            shares = _lagrange(nearest[:count], log_c)
            weight = _combined([point.weight for point in points], shares)
            value = self.problem.loss([point.logits for point in points], shares, sampled=True)
            value = _worth(value + 0.5 * penalty * squares(weight, weight))
            if found is None or value < found[0]:
                found = value, shares
        if found is None:
            return None
        points = [self.points[known] for known in nearest[: len(found[1])]]
        weight = _combined([point.weight for point in points], found[1])
        return Point(weight, _combined([point.logits for point in points], found[1]))

    def _keep(self, log_c: float, point: Point) -> None:
        self.points[log_c] = point
        kept = max(1, min(KEPT, KEPT_BYTES // max(1, point.logits.nbytes + point.weight.nbytes)))
        while len(self.points) > kept:
            del self.points[max(self.points, key=lambda other: abs(other - log_c))]

    def _classifier(self, point: Point) -> LinearClassifier:
        weight, bias = self.design.original(point.weight)
        whole = weight.new_zeros(self.num_classes, weight.shape[1])
        whole[self.classes] = weight
        biases = bias.new_full((self.num_classes,), -torch.inf)
        biases[self.classes] = bias
        value = point.objective
        share = max(0.0, point.gap) / value if value else 0.0
        return LinearClassifier(whole.to(self.dtype), biases.to(self.dtype), value, share, point.steps)


def _finished(fitted: LinearClassifier, tolerance: float, slack: float) -> bool:
    """Near the minimum, or so near 0 (separable classes under a weak penalty) that nobody can tell."""
    return fitted.gap <= max(1e-2, 10 * tolerance) or fitted.gap * fitted.objective <= max(1e-5, slack)


def _lagrange(known: Sequence[float], at: float) -> list[float]:
    """Weights of the values at `known` in the polynomial through them, evaluated at `at`."""
    return [math.prod((at - other) / (own - other) for other in known if other != own) for own in known]


def _combined(parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    out = parts[0] * shares[0]
    for part, share in zip(parts[1:], shares[1:], strict=True):
        out.add_(part, alpha=share)
    return out


def _worth(value: float) -> float:
    return value if math.isfinite(value) else math.inf


@dataclass
class Search:
    """What a search over costs found.

    Attributes:
        c: the chosen one.
        values: validation score of every C that was tried, in that order.
    """

    c: float
    values: dict[float, float] = field(default_factory=dict)


def grid_search(score: Callable[[float], float], costs: Sequence[float]) -> Search:
    """Every cost from the strongest penalty to the weakest; the smaller one at a tie."""
    values = {c: score(c) for c in sorted(costs)}
    return Search(max(values, key=lambda c: (values[c], -c)), values)


def coarse_fine_search(score: Callable[[float], float], costs: Sequence[float] = COARSE_COSTS) -> Search:
    """The two stages of lgssl: a coarse grid, then interval halving two decades around its best value.

    The second stage has 29 values evenly spaced in log C, cut to the range of the first. It compares those at
    a quarter, the half and three quarters, and keeps the part around the best of them until one is left. The
    first one tried wins a tie.
    """
    coarse = grid_search(score, costs)
    values, visited = dict(coarse.values), {coarse.c: coarse.values[coarse.c]}
    steps = torch.linspace(-2, 2, FINE_VALUES, dtype=torch.float64).tolist()
    fine = [coarse.c * 10.0**step for step in steps]
    left = [c for c in fine if min(costs) * (1 - 1e-9) <= c <= max(costs) * (1 + 1e-9)]
    while len(left) > 1:
        count = len(left)  # negative positions round away from the end, as in the published search
        quarter, half, rest = left[count // 4], left[count // 2], left[-count // 4]
        for c in (quarter, half, rest):
            if c not in visited:
                visited[c] = values[c] = values[c] if c in values else score(c)
        left = _kept(left, visited, quarter, half, rest)
    return Search(max(visited, key=lambda c: visited[c]), values)


def _kept(left: list[float], visited: Mapping[float, float], quarter: float, half: float, rest: float) -> list[float]:
    count = len(left)
    best = max(visited[quarter], visited[half], visited[rest])
    if visited[quarter] == best:
        return left[: count // 2]
    if visited[rest] == best:
        return left[count // 2 :]
    return left[count // 4 : -count // 4]


def check_rows(features: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raises DataError unless features are finite [N, D] and labels Long[N] in [0, K) or bool [N, K]."""
    if features.ndim != 2 or len(features) != len(labels) or not len(labels):
        raise DataError(f"features must be [N, D] with N labels, got {tuple(features.shape)} and {len(labels)} labels")
    if not torch.isfinite(features).all():
        rows = (~torch.isfinite(features).all(1)).nonzero()[:3, 0].tolist()
        raise DataError(f"features hold NaN or infinite values, first in rows {rows}")
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise DataError(f"labels of several classes must be [N, {num_classes}], got {tuple(labels.shape)}")
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(f"labels must lie in [0, {num_classes}), got values from {low} to {high}")
