"""Saving the state between two steps, atomically, and stopping there on request."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from lgrep.callbacks.periodic import Listener, say
from lgrep.callbacks.requeue import requeue
from lgrep.callbacks.stopping import StopRequest
from lgrep.checkpoints.writer import CheckpointWriter
from lgrep.errors import CheckpointError, Interrupted

ASIDE = ".aside"


@dataclass
class Best:
    """The best measurement so far.

    Attributes:
        metric: its name.
        mode: which values are better.
        value, step: of the best one; the step is -1 before the first.
    """

    metric: str
    mode: Literal["max", "min"] = "max"
    value: float = math.nan
    step: int = -1

    def update(self, value: float, step: int) -> bool:
        """Take a measurement in; whether it is better than all before."""
        better = value > self.value if self.mode == "max" else value < self.value
        if not math.isfinite(value) or not (better or math.isnan(self.value)):
            return False
        self.value, self.step = value, step
        return True


class RunCheckpoint(Checkpoint, Listener):
    """Writes `checkpoints/step-<n>.ckpt` after n optimiser steps and links `last.ckpt` to the newest.

    The state is saved before a step begins, when everything of the steps before it (weights, probes,
    metrics rows) is complete. Files appear under their name only when they are whole, and end with a hash of their
    content. A state that cannot be written (full disk) is reported and the run goes on; the last one must be written.

    Args:
        run_dir: folder of the run.
        every_n_steps: distance between states.
        keep: newest states kept.
        stop: request that ends the run between two steps, after a save; None: nothing does.
        best: metric whose best state is kept, too, as `best.ckpt`; the state is saved whenever it improves.
        requeue: an interrupted SLURM job goes back into the queue.
    """

    def __init__(
        self,
        run_dir: str,
        every_n_steps: int,
        keep: int,
        stop: StopRequest | None = None,
        best: Best | None = None,
        requeue: bool = True,
    ) -> None:
        self.folder = Path(run_dir) / "checkpoints"
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.stop = stop
        self.best = best
        self.requeue = requeue
        self.writer = CheckpointWriter()
        self._saved_step = -1
        self._others: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step = trainer.global_step
        # A state saved between steps has already counted the batch that follows; it is counted again now.
        total = trainer.fit_loop.epoch_loop.batch_progress.total
        total.ready = total.completed
        if self.stop is not None:
            self.stop.connect()
            self.stop.check_same(trainer.global_step)
        if trainer.is_global_zero:
            self._tidy(trainer.global_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return  # half an optimiser step cannot be resumed
        # Lightning counts one step too many after a resume between steps; loggers read this number.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        signal_number = None if self.stop is None else self.stop.agreed()
        due = trainer.global_step % self.every_n_steps == 0 or signal_number is not None or self._is_best(trainer)
        if due and trainer.global_step != self._saved_step:
            self.save(trainer)
        if signal_number is not None:
            self._end(trainer, signal_number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stop is not None:
            self.stop.disconnect()
        if trainer.global_step != self._saved_step:
            self.save(trainer)
        self._check_written(trainer)
        if trainer.is_global_zero:
            for path in self.folder.glob(f"*{ASIDE}"):
                path.unlink()
        if self.best is not None and self.best.step < 0 and trainer.is_global_zero:
            measured = ", ".join(sorted(self._others)) or "nothing"
            say(
                trainer,
                f"checkpoint.best={self.best.metric} was never measured ({measured} was): there is no best.ckpt",
            )

    def measured(self, trainer: pl.Trainer, metrics: Mapping[str, Tensor | float]) -> None:
        if self.best is None:
            return
        self._others |= set(metrics)
        if self.best.metric in metrics:
            # Values of BatchNorm's own statistics differ between processes, which have to agree on when to save.
            value = trainer.strategy.broadcast(float(metrics[self.best.metric]))
            self.best.update(value, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else dict(vars(self.best))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        known = {key: state_dict.get(key) for key in ("metric", "mode")}
        if self.best is not None and known == {"metric": self.best.metric, "mode": self.best.mode}:
            self.best.value, self.best.step = float(state_dict["value"]), int(state_dict["step"])

    def save(self, trainer: pl.Trainer) -> None:
        """Write the state of all processes (a collective call)."""
        for logger in trainer.loggers:
            logger.save()
        path = self._path(trainer.global_step)
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        self._saved_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        if self.writer.problem is not None:
            say(trainer, f"step {trainer.global_step}: the state could not be written ({self.writer.problem}); "
                f"{self._newest()} is kept and the run goes on")  # fmt: skip
            return
        os.replace(partial, path)
        try:
            _link(path, self.folder / "last.ckpt")
            if self._is_best(trainer):
                _link(path, self.folder / "best.ckpt")
            _settle(self.folder)
        except OSError as error:  # the other processes wait for this one
            say(trainer, f"step {trainer.global_step}: {error.filename or self.folder}: {error.strerror}")
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()

    def _end(self, trainer: pl.Trainer, signal_number: int) -> None:
        if trainer.is_global_zero and self.requeue:
            told = requeue(signal_number)
            if told is not None:
                say(trainer, told)
        self._check_written(trainer)
        raise Interrupted(signal_number, trainer.global_step)

    def _check_written(self, trainer: pl.Trainer) -> None:
        if self.writer.problem is not None:
            raise CheckpointError(
                f"the last state (step {trainer.global_step}) could not be written: {self.writer.problem}. "
                f"{self._newest()} is intact. Make room and type the same command to go on from there"
            )

    def _tidy(self, step: int) -> None:
        """Remove what a killed process left half; put states aside that are newer (damaged, or left behind on purpose)."""
        for pattern in ("*.partial", "*.link"):
            for left in self.folder.glob(pattern):
                left.unlink()
        for path in self.folder.glob("step-*.ckpt"):
            if path > self._path(step):
                os.replace(path, path.with_suffix(ASIDE))
        if self.best is not None and self.best.step == step and self._path(step).is_file():
            _link(self._path(step), self.folder / "best.ckpt")

    def _is_best(self, trainer: pl.Trainer) -> bool:
        return self.best is not None and self.best.step == trainer.global_step

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.ckpt"

    def _newest(self) -> str:
        states = sorted(self.folder.glob("step-*.ckpt"))
        return states[-1].name if states else "no earlier state"


def _link(path: Path, name: Path) -> None:
    partial = name.with_suffix(".link")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # file systems without hard links
        shutil.copyfile(path, partial)
    os.replace(partial, name)


def _settle(folder: Path) -> None:
    """Names outlive a power cut only once their folder is on the disk."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # systems that do not open folders
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)
