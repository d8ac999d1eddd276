"""Saving the state between two steps, atomically, and stopping there on request."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from lgrep.callbacks.periodic import say
from lgrep.callbacks.stopping import StopRequest
from lgrep.checkpoints.writer import CheckpointWriter
from lgrep.errors import CheckpointError, Interrupted


class RunCheckpoint(Checkpoint):
    """Writes `checkpoints/step-<n>.ckpt` after n optimiser steps and links `last.ckpt` to the newest.

    The state is saved before a step begins, when everything of the steps before it (weights, probes,
    metrics rows) is complete. Files appear under their name only when they are whole. A state that cannot be
    written (full disk) is reported and the run goes on; the last one must be written.

    Args:
        run_dir: folder of the run.
        every_n_steps: distance between states.
        keep: newest states kept.
        stop: request that ends the run between two steps, after a save; None: nothing does.
    """

    def __init__(self, run_dir: str, every_n_steps: int, keep: int, stop: StopRequest | None = None) -> None:
        self.folder = Path(run_dir) / "checkpoints"
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.stop = stop
        self.writer = CheckpointWriter()
        self._saved_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step = trainer.global_step
        # A state saved between steps has already counted the batch that follows; it is counted again now.
        total = trainer.fit_loop.epoch_loop.batch_progress.total
        total.ready = total.completed
        if self.stop is not None:
            self.stop.connect()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning counts one step too many after a resume between steps; loggers read this number.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        signal_number = None if self.stop is None else self.stop.agreed()
        due = trainer.global_step % self.every_n_steps == 0 or signal_number is not None
        if due and trainer.global_step != self._saved_step:
            self.save(trainer)
        if signal_number is not None:
            raise Interrupted(signal_number, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stop is not None:
            self.stop.disconnect()
        if trainer.global_step != self._saved_step:
            self.save(trainer)
        if self.writer.problem is not None:
            raise CheckpointError(
                f"the last state (step {trainer.global_step}) could not be written: {self.writer.problem}. "
                f"{self._newest()} is intact. Make room and type the same command to go on from there"
            )

    def save(self, trainer: pl.Trainer) -> None:
        """Write the state of all processes (a collective call)."""
        for logger in trainer.loggers:
            logger.save()
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
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
        _link(path, self.folder / "last.ckpt")
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()

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
