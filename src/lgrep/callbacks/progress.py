"""Progress bar: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
from pydantic import Field, PositiveFloat
from pytorch_lightning.callbacks.progress.progress_bar import ProgressBar as LightningProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lgrep.callbacks.clock import Reading, StepClock, pictures_in
from lgrep.callbacks.periodic import total_steps


class ProgressBar(LightningProgressBar):
    """Shows step, loss, pictures per second, share of waiting for data, time left and the last probe values.

    The loss is read from the device only when the display is refreshed.

    Args:
        every_n_steps: optimiser steps between refreshes, at least 20.
        min_seconds: least time between two plain lines.
        style: `rich` (a live bar), `plain` (one line per refresh), or `auto`: rich on a terminal.
    """

    def __init__(
        self,
        every_n_steps: Annotated[int, Field(ge=20)] = 20,
        min_seconds: PositiveFloat = 5.0,
        style: Literal["auto", "rich", "plain"] = "auto",
    ) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self.min_seconds = min_seconds
        self.style = style
        self.clock = StepClock()
        self._enabled = True
        self._total: int | None = None
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._shown: tuple[float, int] = (float("-inf"), -1)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False
        self._stop()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the live bar."""
        if self._live is not None:
            self._live.console.print(*args)
        else:
            print(*args, **kwargs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.listen(trainer)
        self._total = total_steps(trainer)
        self._shown = (float("-inf"), -1)
        if self._enabled and self._wants_rich():
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[status]}")]
            self._live = Progress(*columns, auto_refresh=False)
            self._task = self._live.add_task("training", total=self._total, status="waiting for the first batch")
            self._live.start()
            self._live.refresh()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.count(pictures_in(trainer, batch))
        step = trainer.global_step
        if not self._enabled or step == self._shown[1]:
            return
        due = step % self.every_n_steps == 0 or self._shown[1] < 0
        waited = self._live is not None or time.monotonic() - self._shown[0] >= self.min_seconds
        if (due and waited) or step == self._total:
            self._show(trainer, outputs)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def _wants_rich(self) -> bool:
        # CI systems often claim to be terminals; a live bar fills their logs with escape codes
        terminal = Console().is_terminal and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
        return self.style == "rich" or (self.style == "auto" and terminal)

    def _show(self, trainer: pl.Trainer, outputs: Any) -> None:
        step = trainer.global_step
        self._shown = (time.monotonic(), step)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        # callbacks' values of this very step are logged after the bar is drawn: probes show the last known ones
        probes = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("probe/")}
        replaced = int(getattr(getattr(trainer, "datamodule", None), "replaced_count", 0) or 0)
        accumulate = max(1, trainer.accumulate_grad_batches)
        parts = describe(step, self._total, float(loss), self.clock.recent(), accumulate, probes, replaced)
        if self._live is not None:
            self._live.update(self._task, completed=step, status="  ".join(parts), refresh=True)
        else:
            print("  ".join(parts), file=sys.stdout, flush=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def describe(
    step: int,
    total: int | None,
    loss: float,
    speed: Reading,
    accumulate: int = 1,
    probes: dict[str, float] | None = None,
    replaced: int = 0,
) -> list[str]:
    """The parts of one status line.

    >>> describe(50, 200, 1.5, Reading(seconds=10, batches=50, pictures=1000, waited=1))
    ['step  50/200', 'loss 1.500', '100 pictures/s', 'data wait 10 %', 'ETA 0:00:30']
    """
    width = len(f"{total:,}") if total else 0
    parts = [
        f"step {step:>{width},}" + (f"/{total:,}" if total else ""),
        f"loss {loss:.3f}",
        f"{speed.pictures_per_second:,.0f} pictures/s",
        f"data wait {speed.data_wait:.0%}".replace("%", " %"),
    ]
    if total and speed.batches:
        seconds = round((total - step) * accumulate * speed.seconds / speed.batches)
        parts.append(f"ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}")
    parts += [f"{name.removeprefix('probe/')} {value:.3f}" for name, value in (probes or {}).items()]
    if replaced:
        parts.append(f"{replaced:,} picture{'s' * (replaced > 1)} replaced")
    return parts
