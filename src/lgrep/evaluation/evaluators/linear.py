"""The linear probe: logistic regression on fixed features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from lgrep.errors import ConfigError
from lgrep.evaluation.contract import Metric, Score, Task
from lgrep.evaluation.linear import C_GRID, LinearResult, holdout_split, linear_probe, mean_per_class, measure, top1
from lgrep.evaluation.linear_backends import (
    CHOOSING,
    FINAL,
    Fits,
    ScikitLearn,
    UnsquaredPenalty,
    lbfgs_fits,
    newton_fits,
)
from lgrep.evaluation.unsquared import UnsquaredPath

Split = tuple[Tensor, Tensor]


class LinearProbe:
    """Logistic regression on fixed features: cost chosen on validation, refit on train + validation, tested once.

    The published validation part is used, else a part of train that is held out by the seed. With
    `search=coarse_fine`, `reference_behaviour=true`, `standardise=false` and lgssl's seven costs it is the
    probe of language-guided SSL (El Banani et al., arXiv 2302.12248), after CLIP's (arXiv 2103.00020).

    Args:
        costs: inverse penalties C in scikit-learn's convention; the first stage for `coarse_fine`.
        search: `grid`: every cost; `coarse_fine`: the costs, then interval halving around the best one.
        standardise: scale every feature to mean 0 and standard deviation 1.
        select_by: validation score that chooses C; `metric`: the data set's own, as always for pictures of several
            classes.
        holdout: share of every class of train that validates where no validation part was published.
        stratified: hold the same share of every class out; false: of all pictures.
        split_seed: of that draw; null: the run's.
        refit: fit the chosen cost again on train + validation.
        reference_behaviour: lgssl's objective, mean cross-entropy + |W| / (2 C) with the norm not squared.
        backend: `torch`, on the run's device, or `sklearn`, value by value.
        solver: of torch: `newton`, to the minimum on one warm-started path, or `lbfgs`, stopped by its gradient
            (with `reference_behaviour`: from zero for every cost, lgssl's own loop).
        max_iter: of `sklearn`, and of `reference_behaviour` with `lbfgs`.
        name: of the score, when several such probes are measured together.
    """

    def __init__(
        self,
        costs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = C_GRID,
        search: Literal["grid", "coarse_fine"] = "grid",
        standardise: bool = True,
        select_by: Literal["metric", "top1", "mean_per_class"] = "metric",
        holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        stratified: bool = True,
        split_seed: NonNegativeInt | None = None,
        refit: bool = True,
        reference_behaviour: bool = False,
        backend: Literal["torch", "sklearn"] = "torch",
        solver: Literal["newton", "lbfgs"] = "newton",
        max_iter: PositiveInt = 1000,
        name: str = "linear",
    ) -> None:
        if reference_behaviour and backend == "sklearn":
            raise ConfigError(
                "scikit-learn has no penalty on the norm itself; type reference_behaviour=false or backend=torch"
            )
        self.costs, self.search, self.standardise, self.select_by = costs, search, standardise, select_by
        self.holdout, self.stratified, self.split_seed, self.refit = holdout, stratified, split_seed, refit
        self.reference_behaviour, self.backend, self.solver, self.max_iter = (
            reference_behaviour,
            backend,
            solver,
            max_iter,
        )
        self.name = name

    def refusal(self, task: Task) -> str | None:
        """Sets without classes, training or test part."""
        missing = refuse_unlabelled(task)
        if missing:
            return missing
        if self.reference_behaviour and task.labels_of("train").ndim == 2:
            return f"pictures of {task.dataset.name} have several labels; type {self.name}.reference_behaviour=false"
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score: the data set's metric first, top-1 and mean per class where pictures have one label."""
        seed = task.seed if self.split_seed is None else self.split_seed
        train, validation, source = train_and_validation(task, self.holdout, seed, self.stratified)
        test, labels = labelled(task, "test")
        metric = task.dataset.metric
        result = linear_probe(
            train,
            validation,
            test.to(train[0].device),
            task.dataset.num_classes,
            self.costs,
            self.standardise,
            self._chosen_by(task),
            self.search,
            self.refit,
            self._fits(),
        )
        values, headline = summarise(self.name, metric, result.scores.cpu(), labels)
        settings = self._settings(task, result) | source | {"test": len(labels)}
        yield Score(self.name, settings, values, {self.name: result.predictions.cpu()}, headline)

    def _chosen_by(self, task: Task) -> Metric:
        several = task.labels_of("train").ndim == 2
        return task.dataset.metric if several or self.select_by == "metric" else self.select_by

    def _fits(self) -> Fits:
        if self.reference_behaviour and self.solver == "newton":
            return lambda x, y, classes, final: UnsquaredPath(x, y, classes, FINAL if final else CHOOSING)
        if self.reference_behaviour:
            return lambda x, y, classes, _: UnsquaredPenalty(x, y, classes, self.max_iter)
        if self.backend == "sklearn":
            return lambda x, y, classes, _: ScikitLearn(x, y, classes, self.max_iter)
        return newton_fits if self.solver == "newton" else lbfgs_fits

    def _settings(self, task: Task, result: LinearResult) -> dict[str, Any]:
        objective = "mean cross-entropy + |W| / (2 C)" if self.reference_behaviour else "C * cross-entropy + |W|^2 / 2"
        solver = "lbfgs from zero" if self.reference_behaviour and self.solver == "lbfgs" else self.solver
        return {
            "standardised": self.standardise,
            "objective": objective,
            "solver": solver if self.backend == "torch" else "scikit-learn lbfgs",
            "search": self.search,
            "c_grid": list(self.costs),
            "c": result.c,
            "chosen_by": self._chosen_by(task),
            "validation": {f"{c:.6g}": value for c, value in result.validation.items()},
            "refit": self.refit,
            "metric": task.dataset.metric,
            "classes": task.dataset.num_classes,
            "reached": result.classifier.objective,
        }


def refuse_unlabelled(task: Task) -> str | None:
    """Why a classifier cannot be fitted: no training or test part, or no labels."""
    for part in ("train", "test"):
        if not task.has(part):
            return f"{task.dataset.name} has no part '{part}'"
        labels = task.labels_of(part)
        if not len(labels) or not bool((labels >= 0).any()):
            return f"the part '{part}' of {task.dataset.name} has no labels"
    return f"{task.dataset.name} has no classes" if task.dataset.num_classes < 1 else None


def labelled(task: Task, part: str) -> Split:
    """(features, labels) of the pictures of a part that have a label."""
    features, labels = task.split(part)
    if labels.ndim == 2:
        return features, labels
    known = labels >= 0
    return (features, labels) if bool(known.all()) else (features[known], labels[known])


def train_and_validation(
    task: Task, holdout: float, seed: int, stratified: bool = True
) -> tuple[Split, Split, dict[str, Any]]:
    """Train and validation on the task's device, and how they came about.

    Args:
        task: with a part `train`, and `validation` where one was published.
        holdout: share of train that validates where none was published.
        seed: of that draw.
        stratified: see `holdout_split`.
    """
    train, labels = labelled(task, "train")
    if task.has("validation"):
        held_out, held_out_labels = labelled(task, "validation")
        source: dict[str, Any] = {"validation_from": "the data set's validation part"}
    else:
        kept, out = holdout_split(labels, holdout, seed, stratified)
        if not len(out):
            raise ConfigError(
                f"{holdout:g} of the {len(labels)} training pictures of {task.dataset.name} is none; hold more out, "
                "e.g. holdout=0.5"
            )
        held_out, held_out_labels, train, labels = train[out], labels[out], train[kept], labels[kept]
        kind = "of every class of train" if stratified else "of train"
        source = {"validation_from": f"{holdout:g} {kind}, seed {seed}"}
    source |= {"train": len(labels), "validation_pictures": len(held_out_labels)}
    # Apple's devices have no float64, in which the solvers' exact parts are done
    device = torch.device("cpu") if task.device.type == "mps" else task.device
    to = partial(torch.Tensor.to, device=device)
    return (to(train), to(labels)), (to(held_out), to(held_out_labels)), source


def summarise(name: str, metric: Metric, scores: Tensor, labels: Tensor) -> tuple[dict[str, float], tuple[str, ...]]:
    """Values of class scores [M, K] by name, and the names that tables show.

    `NAME` is top-1, `NAME_per_class` the mean over classes; `NAME_map11` and `NAME_roc_auc` where the data set counts
    those.
    """
    values: dict[str, float] = {}
    if labels.ndim == 1:
        predictions = scores.argmax(1)
        values = {name: top1(predictions, labels), f"{name}_per_class": mean_per_class(predictions, labels)}
    if metric in ("map11", "roc_auc"):
        values[f"{name}_{metric}"] = measure(metric, scores, labels)
        return values, (f"{name}_{metric}",)
    return values, (name, f"{name}_per_class") if metric == "mean_per_class" else (name,)
