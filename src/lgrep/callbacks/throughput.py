"""Throughput record."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt

from lgrep.callbacks.clock import Reading, StepClock, pictures_in
from lgrep.callbacks.periodic import PeriodicCallback
from lgrep.files import replacing

_COLUMNS = ("step", "seconds", "pictures", "pictures_per_second", "data_wait", "peak_memory_bytes")


class Throughput(PeriodicCallback):
    """Writes pictures per second, share of waiting for data and peak memory to `speed.csv`.

    Times differ between equal runs, so they have a file of their own beside the metrics. A resumed run
    continues the file after the row of its checkpoint. Each row covers the steps since the row before.

    Args:
        run_dir: folder of the run.
        every_n_steps: distance between rows in optimiser steps.
    """

    def __init__(self, run_dir: str, every_n_steps: PositiveInt = 100) -> None:
        super().__init__(every_n_steps)
        self.path = Path(run_dir) / "speed.csv"
        self.clock = StepClock()
        self._last = Reading()
        self._rows: list[dict[str, str]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._rows = [row for row in _read(self.path) if int(row["step"]) <= trainer.global_step]
        if trainer.is_global_zero:
            self._write()
        self._last = Reading()
        self.clock.listen(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.count(pictures_in(trainer, batch))
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def act(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        reading = self.clock.read()
        span, self._last = reading.since(self._last), reading
        values = (
            str(trainer.global_step),
            f"{span.seconds:.4f}",
            str(span.pictures),
            f"{span.pictures_per_second:.2f}",
            f"{span.data_wait:.4f}",
            str(peak_memory(module.device)),
        )
        self._rows.append(dict(zip(_COLUMNS, values, strict=True)))
        if trainer.is_global_zero:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, _COLUMNS).writerow(self._rows[-1])

    def summary(self) -> dict[str, float | int]:
        """Totals over all rows, those of earlier parts of a resumed run included.

        Returns:
            `train_seconds`, `pictures_seen`, `pictures_per_second`, `data_wait` (0 to 1) and
            `peak_memory_bytes`; empty before the first row.
        """
        if not self._rows:
            return {}
        seconds = sum(float(row["seconds"]) for row in self._rows)
        pictures = sum(int(row["pictures"]) for row in self._rows)
        waited = sum(float(row["data_wait"]) * float(row["seconds"]) for row in self._rows)
        return {
            "train_seconds": round(seconds, 3),
            "pictures_seen": pictures,
            "pictures_per_second": round(pictures / seconds, 2) if seconds else 0.0,
            "data_wait": round(waited / seconds, 4) if seconds else 0.0,
            "peak_memory_bytes": max(int(row["peak_memory_bytes"]) for row in self._rows),
        }

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self._rows)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on the device for CUDA, resident in this process otherwise (0 if unknown)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows has no such module
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _read(path: Path) -> list[dict[str, str]]:
    """Complete rows of an earlier part of the run."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if set(row) == set(_COLUMNS) and all(row.values())]
