"""The steps that are watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from lgrep.data.batch import Batch
from lgrep.training.doctor.ledger import PERIODIC, Ledger, synchroniser

LIMIT = 120.0  # seconds after which the steps end early


@dataclass
class Course:
    """The steps: a few to warm up, then half of them untouched and half of them split, or all split on a CPU.

    Attributes:
        split: first step whose parts are counted.
        step: seconds of an untouched step.
        parts: seconds of a split step.
        batch: the last one, on the device.
    """

    ledger: Ledger
    first: int
    split: int
    end: int
    synchronise: Callable[[], None] = lambda: None
    trainer: pl.Trainer | None = None
    step: float = 0.0
    parts: dict[str, float] | None = None
    batch: Batch | None = None
    number: int = -1
    began: float = 0.0

    def next_step(self) -> None:
        """The loop asks for a batch: the step before is over."""
        self.number += 1
        if self.number in (self.first, self.split, self.end):
            self.synchronise()
        now = time.perf_counter()
        if self.number == self.first:
            self.began = now
        alone = self.trainer is not None and self.trainer.world_size == 1  # others would wait for this process
        if alone and self.parts is None and self.number >= self.split + 2 and now - self.began > LIMIT:
            self.end = self.number
        if self.number == self.split:
            self.step = (now - self.began) / max(1, self.split - self.first)
            self.ledger.synchronise = self.synchronise
            self.ledger.reset()
            self.began = now
        elif self.number == self.end:
            self._close(now)

    def _close(self, now: float) -> None:
        self.ledger.settle()
        steps = self.end - self.split
        periodic = self.ledger.seconds.pop(PERIODIC, 0.0)
        self.parts = {part: seconds / steps for part, seconds in self.ledger.seconds.items()}
        if self.split == self.first:
            self.step = (now - self.began - periodic) / steps
        assert self.trainer is not None
        self.trainer.should_stop = True


class Keeper(pl.Callback):
    """Keeps a batch, and the place where the steps are counted."""

    def __init__(self, course: Course) -> None:
        self.course = course

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.course.trainer = trainer
        self.course.synchronise = synchroniser(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.course.batch = batch
