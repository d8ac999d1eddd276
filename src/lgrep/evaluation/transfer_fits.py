"""Classifiers of the t-ReX transfer suite and the search for their settings."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lgrep.errors import ConfigError
from lgrep.evaluation.linear import top1
from lgrep.evaluation.linear_backends import CostFits, newton_fits

Norm = Literal["none", "l2", "standard"]
Solver = Literal["logistic", "sgd"]
Data = tuple[Tensor, Tensor]
Fit = Callable[[Data, Tensor, dict[str, float], bool], Tensor]
SMALLEST_STD = 1e-5


@dataclass(frozen=True)
class Ranges:
    """What is searched, log-uniformly: C of `logistic`; learning rate and weight decay of `sgd`."""

    c: tuple[float, float] = (1e-5, 1e6)
    lr: tuple[float, float] = (0.1, 100.0)
    weight_decay: tuple[float, float] = (1e-12, 1e-4)

    def of(self, solver: Solver) -> dict[str, tuple[float, float]]:
        """Name -> (low, high)."""
        return {"c": self.c} if solver == "logistic" else {"lr": self.lr, "weight_decay": self.weight_decay}


def preprocess(train: Tensor, other: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Features of the fitted rows and of others: as they are, of unit length, or standardised by the fitted rows."""
    if norm == "l2":
        return normalize(train, dim=1), normalize(other, dim=1)
    if norm == "standard":
        mean, std = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(SMALLEST_STD)
        return (train - mean) / std, (other - mean) / std
    return train, other


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


def fitted(solver: Solver, num_classes: int, seed: int, epochs: int, batch_size: int, device: torch.device) -> Fit:
    """A function (fitted rows, other rows, settings, whether it is the last fit) -> predictions Long[M] for the others.

    Args:
        solver: `logistic` (L2-penalised, to convergence) or `sgd` (one linear layer).
        num_classes: K.
        seed: of the order of rows and the first weights of `sgd`.
        epochs, batch_size: of `sgd`.
        device: where it is computed.
    """
    last: list[tuple[Tensor, CostFits]] = []  # the rows fitted last: a search fits the same ones at many costs

    def logistic(data: Data, other: Tensor, settings: dict[str, float], final: bool) -> Tensor:
        if not last or last[0][0] is not data[0]:
            last[:] = [(data[0], newton_fits(data[0].to(device), data[1].to(device), num_classes, final))]
        return last[0][1].fit(settings["c"]).predict(other.to(device)).cpu()

    def sgd(data: Data, other: Tensor, settings: dict[str, float], final: bool) -> Tensor:
        layer = fit_sgd(data, num_classes, settings["lr"], settings["weight_decay"], epochs, batch_size, seed, device)
        with torch.no_grad():
            predicted: Tensor = layer(other.to(device)).argmax(dim=1).cpu()
        return predicted

    return logistic if solver == "logistic" else sgd


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
    fit: Fit, train: Data, validation: Data, ranges: dict[str, tuple[float, float]], trials: int, seed: int
) -> tuple[dict[str, float], float]:
    """The settings of best top-1 on validation, and that accuracy, by Optuna's TPE sampler (the first at a tie).

    Args:
        fit: see `fitted`.
        train, validation: (features, labels), pre-processed.
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
            settings = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in ranges.items()}
            return top1(fit(train, validation[0], settings, False), validation[1])

        study.optimize(objective, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(level)
    best = max(study.trials, key=lambda trial: (trial.value, -trial.number))
    return {str(name): float(value) for name, value in best.params.items()}, float(best.value)
