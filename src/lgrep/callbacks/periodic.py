"""When a callback acts, and how it reports numbers and pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pydantic import PositiveInt
from torch import Tensor


class PeriodicCallback(pl.Callback):
    """Acts after every n-th optimiser step and after the last planned one.

    Subclasses implement `act`. With gradient accumulation it is called once per optimiser step, on the
    batch that completed it. Keeps no state: whether it acts follows from the step alone, so an
    interrupted and resumed run acts at the same steps.

    Args:
        every_n_steps: distance in optimiser steps.
    """

    def __init__(self, every_n_steps: PositiveInt = 100) -> None:
        self.every_n_steps = every_n_steps
        self._total: int | None = None
        self._step_before = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._total = total_steps(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self._step_before and (step % self.every_n_steps == 0 or step == self._total):
            self.act(trainer, pl_module, outputs, batch)

    def act(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        """Called on every rank when the step is due."""
        raise NotImplementedError


class Listener(ABC):
    """A callback that every process tells what was measured, right after a step."""

    @abstractmethod
    def measured(self, trainer: pl.Trainer, metrics: Mapping[str, Tensor | float]) -> None:
        """Called by all processes, which may hold slightly different values."""


def total_steps(trainer: pl.Trainer) -> int | None:
    """Optimiser steps of the whole run, None if it has no planned end."""
    total = trainer.estimated_stepping_batches
    return int(total) if total not in (float("inf"), -1) else None


def report(trainer: pl.Trainer, module: pl.LightningModule, metrics: Mapping[str, Tensor | float]) -> None:
    """Write values of this step to the loggers, and keep them in `trainer.callback_metrics`.

    Lightning would repeat a value in every row that it writes until the epoch ends, which a resumed run
    could not do, and drop it when the step is none of `log_every_n_steps`. So the loggers get it from
    here, once, at the step that it belongs to (Lightning counts the first step as 0).
    """
    module.log_dict(dict(metrics), on_step=True, on_epoch=False, logger=False, batch_size=1)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Listener):
            callback.measured(trainer, metrics)
    if trainer.is_global_zero and trainer.loggers:
        values = {name: float(value) for name, value in metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)


def publish_picture(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Hand a written PNG to every logger that shows pictures (those with `log_picture(name, path, step)`)."""
    for logger in trainer.loggers:
        show = getattr(logger, "log_picture", None)
        if callable(show):
            show(name, path, trainer.global_step)


def say(trainer: pl.Trainer, text: str) -> None:
    """Print a line without tearing the live progress bar."""
    bar = trainer.progress_bar_callback
    if bar is None:
        print(text, flush=True)
    else:
        bar.print(text)
