"""Classifiers of the t-ReX transfer suite and the search for their settings."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lgrep.errors import ConfigError
from lgrep.evaluation.cost_path import LinearClassifier
from lgrep.evaluation.linear_backends import CostFits, newton_fits
from lgrep.evaluation.logistic import Design

Norm = Literal["none", "l2", "standard"]
Solver = Literal["logistic", "sgd"]
Data = tuple[Tensor, Tensor]
_Path = tuple[Callable[[Tensor], Tensor], CostFits]
SMALLEST_STD = 1e-5
SLACK = 2e-5  # nats per picture above the minimum, of fits that only choose C by accuracy
NEAR = math.log(10.0)  # distance of costs whose solutions are good starts for each other


@dataclass(frozen=True)
class Ranges:
    """What is searched, log-uniformly: C of `logistic`; learning rate and weight decay of `sgd`."""

    c: tuple[float, float] = (1e-5, 1e6)
    lr: tuple[float, float] = (0.1, 100.0)
    weight_decay: tuple[float, float] = (1e-12, 1e-4)

    def of(self, solver: Solver) -> dict[str, tuple[float, float]]:
        """Name -> (low, high)."""
        return {"c": self.c} if solver == "logistic" else {"lr": self.lr, "weight_decay": self.weight_decay}


def scaling(train: Tensor, norm: Norm) -> Callable[[Tensor], Tensor]:
    """What features [N, D] go through: nothing, to unit length, or standardised by the fitted rows `train`."""
    if norm == "l2":
        return partial(normalize, dim=1)
    if norm == "standard":
        mean, std = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(SMALLEST_STD)
        return lambda features: (features - mean) / std
    return lambda features: features


def preprocess(train: Tensor, other: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Features of the fitted rows and of others: as they are, of unit length, or standardised by the fitted rows."""
    scale = scaling(train, norm)
    return scale(train), scale(other)


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (kept, held out), ascending: that share of every class, at least one, and none of a class of one.

    Args:
        labels: Long[N].
        share: of every class, in (0, 1).
        seed: of a generator of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    _, counts = torch.unique(labels, return_counts=True)
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    held = (counts.double() * share + 1e-9).long().clamp(min=1).where(counts > 1, 0).repeat_interleave(counts)
    out = place < held
    return order[~out].sort().values, order[out].sort().values


class LogisticFits:
    """L2-penalised logistic regression to its minimum, on some rows or all of one feature matrix.

    The principal axes of all rows are found once and serve every split of them; all fits to the same rows are one
    path of costs. Standardised features differ from split to split and are turned anew.

    Args:
        train: (features [N, D], labels Long[N]).
        num_classes: K.
        norm: of features.
        device: where it is computed.
    """

    def __init__(self, train: Data, num_classes: int, norm: Norm, device: torch.device) -> None:
        self.features, self.labels = train[0].to(device), train[1].to(device)
        self.num_classes, self.norm, self.device = num_classes, norm, device
        self._design: Design | None = None
        self._final: _Path | None = None
        self._split: tuple[Tensor, _Path] | None = None
        self._solved: dict[float, LinearClassifier] = {}  # by log C, the last solution of any rows
        self._own: set[float] = set()  # of them those of the split at hand

    def __call__(self, rows: Tensor | None, other: Tensor, settings: dict[str, float], seed: int) -> Tensor:
        """Predictions Long[M] for others by the fit to some rows (None: all, as exactly as the last fit is)."""
        scale, path = self._path(rows)
        place = math.log(settings["c"])
        fitted = path.fit(settings["c"], self._start(place, rows is None))
        self._solved[place] = fitted
        self._own.add(place)
        return fitted.predict(scale(other.to(self.device))).cpu()

    def _start(self, place: float, final: bool) -> LinearClassifier | None:
        """The solution of other rows at nearly this C, where these rows have none near it themselves."""
        if not final and any(abs(own - place) < NEAR for own in self._own):
            return None
        nearest = min(self._solved, key=lambda known: abs(known - place), default=None)
        return None if nearest is None or abs(nearest - place) > NEAR else self._solved[nearest]

    def _path(self, rows: Tensor | None) -> _Path:
        if rows is None:
            self._final = self._final or self._made(None)
            return self._final
        if self._split is None or self._split[0] is not rows:
            self._split = rows, self._made(rows)
            self._own.clear()
        return self._split[1]

    def _made(self, rows: Tensor | None) -> _Path:
        features, labels = (self.features, self.labels) if rows is None else (self.features[rows], self.labels[rows])
        scale = scaling(features, self.norm)
        design = None
        if self.norm != "standard":
            if self._design is None:
                self._design = Design(scale(self.features).float())
            design = self._design if rows is None else self._design.subset(rows)
        return scale, newton_fits(scale(features).float(), labels, self.num_classes, rows is None, design, SLACK)


class SGDFits:
    """One linear layer by SGD, see `fit_sgd`.

    Args:
        train: (features [N, D], labels Long[N]).
        num_classes: K.
        norm: of features.
        epochs, batch_size: of SGD.
        device: where it is computed.
    """

    def __init__(
        self, train: Data, num_classes: int, norm: Norm, epochs: int, batch_size: int, device: torch.device
    ) -> None:
        self.train, self.num_classes, self.norm = train, num_classes, norm
        self.epochs, self.batch_size, self.device = epochs, batch_size, device

    def __call__(self, rows: Tensor | None, other: Tensor, settings: dict[str, float], seed: int) -> Tensor:
        """Predictions Long[M] for others by the fit to some rows (None: all); `seed`: of first weights and order."""
        features, labels = self.train if rows is None else (self.train[0][rows], self.train[1][rows])
        features, asked = preprocess(features, other, self.norm)
        about = (settings["lr"], settings["weight_decay"], self.epochs, self.batch_size, seed, self.device)
        layer = fit_sgd((features, labels), self.num_classes, *about)
        with torch.no_grad():
            predicted: Tensor = layer(asked.to(self.device)).argmax(dim=1).cpu()
        return predicted


def fit_sgd(
    data: Data,
    num_classes: int,
    lr: float,
    weight_decay: float,
    epochs: int = 100,
    batch_size: int = 1024,
    seed: int = 0,
    device: torch.device | None = None,
) -> nn.Linear:
    """One linear layer by SGD with momentum 0.9; weight decay on the bias too.

    The learning rate follows a cosine by epochs whose first two have the full rate, as published. A loss that is not
    finite ends the fit.

    Args:
        data: (features [N, D], labels Long[N]).
        num_classes: K.
        lr, weight_decay: of SGD.
        epochs: passes over the rows; the last batch may be smaller.
        batch_size: rows per step.
        seed: of the first weights and the order of rows.
        device: where it is computed; None: the CPU.
    """
    features, labels = (part.to(device or "cpu") for part in data)
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features.shape[1], num_classes)
    bound = features.shape[1] ** -0.5
    with torch.no_grad():  # torch's own initialisation, from a generator of its own
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-bound, bound, generator=generator)
    layer.to(features)
    optimiser = torch.optim.SGD(layer.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    for epoch in range(epochs):
        rate = lr * 0.5 * (1 + math.cos(math.pi * max(0, epoch - 1) / epochs))
        for group in optimiser.param_groups:
            group["lr"] = rate
        for rows in torch.randperm(len(labels), generator=generator).to(labels.device).split(batch_size):  # type: ignore[no-untyped-call]
            loss = cross_entropy(layer(features[rows]), labels[rows])
            if not torch.isfinite(loss):
                return layer
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return layer


def need_optuna(argument: str) -> None:
    """Refuses a search without optuna.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise ConfigError(f"{argument} searches with optuna, which is not installed: pip install 'lgrep[tuning]'")


def search(
    score: Callable[[dict[str, float]], float], ranges: dict[str, tuple[float, float]], trials: int, seed: int
) -> tuple[dict[str, float], float]:
    """The settings of the best score, and that score, by Optuna's TPE sampler (the first at a tie).

    Args:
        score: of settings.
        ranges: name -> (low, high), searched log-uniformly.
        trials: settings tried.
        seed: of the sampler.
    """
    optuna: Any = importlib.import_module("optuna")
    options = {"multivariate": True, "group": True, "warn_independent_sampling": False} if len(ranges) > 1 else {}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `group` is called experimental
            sampler = optuna.samplers.TPESampler(seed=seed, **options)
        study = optuna.create_study(direction="maximize", sampler=sampler)

        def objective(trial: Any) -> float:
            return score({name: trial.suggest_float(name, *bounds, log=True) for name, bounds in ranges.items()})

        study.optimize(objective, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(level)
    best = max(study.trials, key=lambda trial: (trial.value, -trial.number))
    return {str(name): float(value) for name, value in best.params.items()}, float(best.value)
