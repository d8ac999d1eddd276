"""What every start of a run took, written down while it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveFloat

from lgrep.cost import Start, read_starts, write_starts


class CostLedger(pl.Callback):
    """Keeps steps, time and devices of each start of a run in `cost.json`.

    The file is kept apart from the checkpoints, which are equal for equal runs: it counts what was really spent, steps
    that a kill undid and that were done again included. A kill loses at most the last `every_s` seconds of it.

    Args:
        run_dir: folder of the run.
        every_s: seconds between two entries.
    """

    def __init__(self, run_dir: str, every_s: PositiveFloat = 20.0) -> None:
        self.run_dir = Path(run_dir)
        self.every_s = every_s
        self._began = time.monotonic()
        self._written = self._began
        self._before: list[Start] = []
        self._start: Start | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        device = pl_module.device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._before = read_starts(self.run_dir)
        self._start = Start(trainer.global_step, trainer.global_step, 0.0, trainer.world_size, kind)
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self._written > self.every_s:
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if self._start is None:
            return
        self._written = time.monotonic()
        self._start.last_step, self._start.seconds = trainer.global_step, round(self._written - self._began, 3)
        write_starts(self.run_dir, [*self._before, self._start])
