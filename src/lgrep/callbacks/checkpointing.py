"""Saving the state between two steps, atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint


class RunCheckpoint(Checkpoint):
    """Writes `checkpoints/step-<n>.ckpt` after n optimiser steps and links `last.ckpt` to the newest.

    The state is saved before a step begins, when everything of the steps before it (weights, probes,
    metrics rows) is complete. Files appear under their name only when they are whole.

    Args:
        run_dir: folder of the run.
        every_n_steps: distance between states.
        keep: newest states kept.
    """

    def __init__(self, run_dir: str, every_n_steps: int, keep: int) -> None:
        self.folder = Path(run_dir) / "checkpoints"
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._saved_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step = trainer.global_step
        # A state saved between steps has already counted the batch that follows; it is counted again now.
        total = trainer.fit_loop.epoch_loop.batch_progress.total
        total.ready = total.completed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning counts one step too many after a resume between steps; loggers read this number.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._saved_step:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write the state of all processes (a collective call)."""
        for logger in trainer.loggers:
            logger.save()
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            _flush(partial)
            os.replace(partial, path)
            _link(path, self.folder / "last.ckpt")
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                old.unlink()


def _flush(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _link(path: Path, name: Path) -> None:
    partial = name.with_suffix(".link")
    partial.unlink(missing_ok=True)
    os.link(path, partial)
    os.replace(partial, name)
