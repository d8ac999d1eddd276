"""Any evaluator on any data set of the catalogue, during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
from pydantic import NonNegativeInt, PositiveInt

from lgrep.callbacks.periodic import PeriodicCallback, report, say
from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.errors import ConfigError, LgrepError
from lgrep.evaluation.contract import EvaluationSet, Evaluator, Score, Subject, Task
from lgrep.evaluation.datasets.catalogue import build_set, expand
from lgrep.evaluation.evaluators import build_evaluators
from lgrep.evaluation.isolation import isolated_randomness
from lgrep.evaluation.tasks import Resources, make_task


class Evaluation(PeriodicCallback):
    """Logs `eval/DATASET/METRIC` of the backbone as it is at the step.

    Numbers are those that `evaluate.py` gives for a checkpoint of the step: the same pictures, transform, evaluators and
    seed. The weights, their statistics, the modes of all modules and the random state are left as they were. Every
    process measures the whole for itself, without communication: all have the same numbers and none waits for another.
    An evaluator that refuses the data set, or needs the text side of a model, is left out, and one that fails on the
    data is passed over; both are said.

    Args:
        dataset: names of `configs/dataset`.
        evaluators: names of `configs/evaluation`.
        settings: evaluator -> arguments that replace those of its file, or a whole node with `_target_`.
        options: data set -> settings that replace those of its file.
        every_n_steps: distance in optimiser steps; the last step is always measured.
        image_size: side in px; None: that of the first view.
        batch_size: pictures per forward pass.
        workers: processes that decode.
        seed: of what evaluators draw; train.py gives the run's.

    Raises:
        ConfigError: an unknown name or setting (before training starts).
        DataError: a data set that is missing or damaged (likewise).
    """

    def __init__(
        self,
        dataset: str | Sequence[str] = ("digits",),
        evaluators: str | Sequence[str] = ("knn",),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        every_n_steps: PositiveInt = 1000,
        image_size: PositiveInt | None = None,
        batch_size: PositiveInt = 256,
        workers: NonNegativeInt = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(every_n_steps)
        self.names = expand(dataset)
        self.evaluators = build_evaluators(evaluators, settings)
        self.options = dict(options or {})
        unknown = sorted(set(self.options) - set(self.names))
        if unknown:
            raise ConfigError(f"options.{unknown[0]}: this data set is not among {', '.join(self.names)}")
        self.image_size, self.batch_size, self.workers, self.seed = image_size, batch_size, workers, seed
        self._sets: list[EvaluationSet] | None = None
        self._refused: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open the data sets."""
        self._transform(pl_module)
        if self._sets is None:
            self._sets = [build_set(name, **self.options.get(name, {})) for name in self.names]
            for dataset in self._sets:
                dataset.parts()

    def act(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        metrics: dict[str, float] = {}
        resources = Resources(module.device, self.batch_size, self.workers, progress=False)
        for dataset in self._sets or ():
            subject = Subject("the run", module.backbone, self._transform(module), "in training")  # type: ignore[arg-type]
            task = make_task(subject, dataset, resources, self.seed)
            for name, evaluator in self.evaluators.items():
                # what evaluators draw must not move the generators that training uses
                with isolated_randomness(self.seed, module.device):
                    self._measure(trainer, task, name, evaluator, metrics)
        if metrics:
            report(trainer, module, metrics)

    def _measure(
        self, trainer: pl.Trainer, task: Task, name: str, evaluator: Evaluator, metrics: dict[str, float]
    ) -> None:
        place = f"{name} on {task.dataset.name}"
        reason = evaluator.refusal(task)
        if reason is not None:
            if trainer.is_global_zero and place not in self._refused:
                say(trainer, f"skipped: {place}: {reason}")
            self._refused.add(place)
            return
        try:
            for score in evaluator(task):
                _add(metrics, task.dataset.name, name, score)
        except LgrepError as error:  # features that are not finite, a picture that went away: no reason to end a run
            if trainer.is_global_zero:
                say(trainer, f"failed: {place} at step {trainer.global_step}: {error}")

    def _transform(self, module: pl.LightningModule) -> EvaluationTransform:
        """The one that a checkpoint of this run asks for."""
        image: dict[str, Any] = dict(getattr(module, "image", None) or {})
        if not image and self.image_size is None:
            raise ConfigError("the module does not say its picture size. Type callbacks.evaluation.image_size=N")
        size = self.image_size or int(image["size"])
        channels = {key: tuple(image[key]) for key in ("mean", "std") if key in image}
        return replace(EvaluationTransform(size), **channels)  # type: ignore[arg-type]


def _add(metrics: dict[str, float], dataset: str, evaluation: str, score: Score) -> None:
    """All values of a score but those of chance, with the evaluator's name where two have the same."""
    for name, value in score:
        if not name.startswith("chance_"):
            key = f"eval/{dataset}/{name}"
            metrics[f"eval/{dataset}/{evaluation}/{name}" if key in metrics else key] = value
