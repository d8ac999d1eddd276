"""lgssl's objective, whose penalty is the norm and not its square, minimised along the path of the squared one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lgrep.errors import ConfigError
from lgrep.evaluation.cost_path import CostPath, LinearClassifier, check_rows

CLOSE = 2e-3  # relative distance of the penalty's pull from the wanted one, which the objective feels squared
FITS = 16  # of one cost
FARTHEST = math.log(100.0)  # of a step beyond what is known


class UnsquaredPath:
    """Minimises mean cross-entropy + |W| / (2 C), classes being the distinct labels of the training rows.

    Where its minimum is not W = 0, the gradient of the loss is -W / (2 C |W|): that of the squared penalty p |W|^2 / 2
    with p = 1 / (2 C |W|). So each cost is a place on the path of the squared penalty, found by its pull p |W|, which
    grows with p. With 1 / (2 C) above the gradient at W = 0 nothing but the bias is learned.

    Args:
        features: [N, D] floating point.
        labels: Long[N] in [0, num_classes).
        num_classes: K.
        tolerance: of the fits, see `CostPath`.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, tolerance: float) -> None:
        check_rows(features, labels, num_classes)
        if labels.ndim != 1:
            raise ConfigError("reference_behaviour fits one class per picture; type reference_behaviour=false")
        self.path = CostPath(features, labels, num_classes, tolerance)
        counts = labels.bincount(minlength=num_classes)
        # scikit-learn's binary penalty, which the path takes its costs in, is half of that on two vectors
        self.scale = (2.0 if int((counts > 0).sum()) == 2 else 1.0) / len(labels)
        self.bias = (counts.double() / len(labels)).log().to(features)
        residual = functional.one_hot(labels, num_classes).double() - counts.double() / len(labels)
        centred = features.double() - features.mean(0, dtype=torch.float64)
        self.slope = float((residual.T @ centred).norm()) / len(labels)  # of the loss at W = 0
        self.empty = float(-torch.xlogy(counts / len(labels), counts / len(labels)).sum())
        self.known: dict[float, float] = {}  # log pull -> log penalty
        self._fitted: dict[float, LinearClassifier] = {}

    def fit(self, c: float, start: LinearClassifier | None = None) -> LinearClassifier:
        """The classifier at cost `c`; of `start` the norm tells where to begin."""
        if c not in self._fitted:
            self._fitted[c] = self._found(0.5 / c, start) if 0.5 / c < self.slope else self._nothing()
        return self._fitted[c]

    def _nothing(self) -> LinearClassifier:
        weight = self.bias.new_zeros(len(self.bias), self.path.dim)
        return LinearClassifier(weight, self.bias, self.empty, 0.0)

    def _found(self, pull: float, start: LinearClassifier | None) -> LinearClassifier:
        norm = 0.0 if start is None else float(start.weight.norm())
        log_penalty = math.log(pull / norm) if norm > 0 and not self.known else self._guess(math.log(pull))
        for _ in range(FITS):
            penalty = math.exp(log_penalty)
            fitted = self.path.fit(self.scale / penalty, start)
            norm = float(fitted.weight.double().norm())
            reached = math.log(max(penalty * norm, 1e-300))
            self.known[reached] = log_penalty
            if abs(reached - math.log(pull)) <= CLOSE:
                break
            log_penalty = self._guess(math.log(pull))
        value = fitted.objective - 0.5 * penalty * norm**2 + pull * norm
        return LinearClassifier(fitted.weight, fitted.bias, value, fitted.gap, fitted.steps)

    def _guess(self, log_pull: float) -> float:
        """Log penalty at which the pull is expected to be this, between or beyond the known ones."""
        if not self.known:
            return log_pull  # a norm of 1
        below = max((known for known in self.known if known <= log_pull), default=None)
        above = min((known for known in self.known if known > log_pull), default=None)
        if below is not None and above is not None:
            share = (log_pull - below) / (above - below)
            return self._curve(log_pull, below, above, min(0.95, max(0.05, share)))
        edge = above if below is None else below
        assert edge is not None
        others = sorted((known for known in self.known if known != edge), key=lambda known: abs(known - edge))
        rate = (self.known[others[0]] - self.known[edge]) / (others[0] - edge) if others else 1.0
        step = min(10.0, max(1.0, rate)) * (log_pull - edge)  # the penalty moves at least as far as its pull
        return self.known[edge] + max(-FARTHEST, min(FARTHEST, step))

    def _curve(self, at: float, below: float, above: float, share: float) -> float:
        """The parabola through the three nearest known places, kept between two of them; else the line."""
        low, high = self.known[below], self.known[above]
        third = min((known for known in self.known if known not in (below, above)),
                    key=lambda known: abs(known - at), default=None)  # fmt: skip
        line = low + share * (high - low)
        if third is None:
            return line
        first = (high - low) / (above - below)
        second = ((self.known[third] - high) / (third - above) - first) / (third - below)
        bent = low + first * (at - below) + second * (at - below) * (at - above)
        margin = 0.02 * (high - low)
        return bent if min(low, high) + margin < bent < max(low, high) - margin else line
