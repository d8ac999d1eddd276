"""The transfer suite of t-ReX: linear classification with settings searched on held-out pictures."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, pstdev
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.linear import mean_per_class, top1
from lgrep.evaluation.log_odds import log_odds
from lgrep.evaluation.transfer_fits import LogisticFits, Norm, Ranges, SGDFits, Solver, hold_out, need_optuna, search

LARGE = 100_000  # training pictures from which the published suite uses SGD: ImageNet, CoG levels, iNaturalist
Positive = Annotated[float, Field(gt=0)]
Bounds = tuple[Positive, Positive]


class Transfer:
    """Logistic regression whose C, or SGD whose learning rate and weight decay, Optuna searches on held-out pictures.

    As t-ReX measures (Sariyildiz et al., arXiv 2206.15369, section 4): the training pictures (train + validation) are
    split within every class, the settings of best top-1 on the held-out ones are taken, the classifier is fitted again
    on all, and tested; all of it once per seed. `transfer` is the mean accuracy over seeds, `transfer_log_odds` the
    log odds of that mean; `lgrep.evaluation.log_odds.suite_scores` averages them over data sets.

    Args:
        solver: `auto` is `logistic` below 100,000 training pictures and `sgd` from there on.
        norm: `auto` is `none` for logistic, `l2` for SGD; `standard` is by the statistics of the fitted pictures.
        trials: settings tried per seed.
        seeds: how many, counted from the run's.
        held_out: share of every class for the search.
        c, lr, weight_decay: bounds of the search.
        epochs, batch_size: of SGD.
    """

    name = "transfer"

    def __init__(
        self,
        solver: Literal["auto", "logistic", "sgd"] = "auto",
        norm: Literal["auto", "none", "l2", "standard"] = "auto",
        trials: PositiveInt = 30,
        seeds: PositiveInt = 3,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        c: Bounds = Ranges.c,
        lr: Bounds = Ranges.lr,
        weight_decay: Bounds = Ranges.weight_decay,
        epochs: PositiveInt = 100,
        batch_size: PositiveInt = 1024,
    ) -> None:
        need_optuna("evaluation=transfer")
        self.solver, self.norm, self.trials, self.seeds, self.held_out = solver, norm, trials, seeds, held_out
        self.ranges = Ranges(c, lr, weight_decay)
        self.epochs, self.batch_size = epochs, batch_size

    def refusal(self, task: Task) -> str | None:
        for part in ("train", "test"):
            if not task.has(part):
                return f"{task.dataset.name} has no part '{part}'"
        labels = task.labels_of("train")
        if labels.ndim != 1:
            return f"pictures of {task.dataset.name} have several labels"
        if not len(hold_out(labels[labels >= 0], self.held_out, 0)[1]):
            return f"no class of {task.dataset.name} has two training pictures"
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score over all seeds."""
        parts = [_labelled(*task.split(part)) for part in ("train", "validation") if task.has(part)]
        train = torch.cat([features for features, _ in parts]), torch.cat([labels for _, labels in parts])
        test = _labelled(*task.split("test"))
        solver: Solver = self.solver if self.solver != "auto" else "sgd" if len(train[1]) >= LARGE else "logistic"
        norm: Norm = self.norm if self.norm != "auto" else "l2" if solver == "sgd" else "none"
        fit: LogisticFits | SGDFits
        if solver == "logistic":
            fit = LogisticFits(train, task.dataset.num_classes, norm, task.device)
        else:
            fit = SGDFits(train, task.dataset.num_classes, norm, self.epochs, self.batch_size, task.device)
        tried = []
        predictions: dict[str, Tensor] = {}
        for seed in range(task.seed, task.seed + self.seeds):
            kept, held = hold_out(train[1], self.held_out, seed)
            asked, truth = train[0][held], train[1][held]

            def score(
                settings: dict[str, float],
                kept: Tensor = kept,
                asked: Tensor = asked,
                truth: Tensor = truth,
                seed: int = seed,
            ) -> float:
                return top1(fit(kept, asked, settings, seed), truth)

            chosen, accuracy = search(score, self.ranges.of(solver), self.trials, seed)
            predictions[f"transfer_seed{seed}"] = fit(None, test[0], chosen, seed)
            tried.append({"seed": seed, "chosen": chosen, "held_out_accuracy": accuracy})
        settings = self._settings(solver, norm) | {"runs": tried, "train": len(train[1]), "test": len(test[1])}
        values = _values(predictions, test[1])
        headline = "transfer_per_class" if task.dataset.metric == "mean_per_class" else "transfer"
        yield Score("transfer", settings, values, predictions, (headline, "transfer_log_odds"))

    def _settings(self, solver: Solver, norm: Norm) -> dict[str, Any]:
        sgd = {"epochs": self.epochs, "batch_size": self.batch_size, "momentum": 0.9} if solver == "sgd" else {}
        return {
            "solver": solver,
            "features": norm,
            "trials": self.trials,
            "sampler": "TPE",
            "ranges": {name: list(bounds) for name, bounds in self.ranges.of(solver).items()},
            "held_out": self.held_out,
            "chosen_by": "top-1 on held-out training pictures",
            "log_odds_of": "mean top-1 over seeds",
            **sgd,
        }


def _labelled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return features[labels >= 0], labels[labels >= 0]


def _values(predictions: dict[str, Tensor], labels: Tensor) -> dict[str, float]:
    accuracy = [top1(found, labels) for found in predictions.values()]
    return {
        "transfer": fmean(accuracy),
        "transfer_std": pstdev(accuracy),
        "transfer_per_class": fmean(mean_per_class(found, labels) for found in predictions.values()),
        "transfer_log_odds": log_odds(fmean(accuracy), len(labels)),
    }
