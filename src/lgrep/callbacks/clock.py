"""Timing of the training loop, shared by the progress bar and the throughput record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

_FETCH = "train_dataloader_next"  # Lightning's profiler names the fetch of a batch so


@dataclass(frozen=True)
class Reading:
    """Totals since the clock started: seconds, batches, pictures of all ranks, seconds waited for data."""

    seconds: float = 0.0
    batches: int = 0
    pictures: int = 0
    waited: float = 0.0

    def since(self, earlier: Reading) -> Reading:
        """What was added after `earlier`."""
        return Reading(
            self.seconds - earlier.seconds,
            self.batches - earlier.batches,
            self.pictures - earlier.pictures,
            self.waited - earlier.waited,
        )

    @property
    def pictures_per_second(self) -> float:
        """Pictures (views) of all ranks per second of wall-clock time, probes and checkpoints included."""
        return self.pictures / self.seconds if self.seconds > 0 else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time in which the loop waited for the next batch, 0 to 1."""
        return min(1.0, self.waited / self.seconds) if self.seconds > 0 else 0.0


class StepClock:
    """Counts batches and pictures, and the time the loop waits for data.

    Callback hooks alone cannot tell waiting from checkpoints or other callbacks, so the clock listens
    to the trainer's profiler, which announces every fetch. Work is measured on the host: on a GPU a wait
    that overlaps with queued kernels counts as waiting too.

    Args:
        window: how many past readings `recent` looks back.
        now: seconds, monotonic.
    """

    def __init__(self, window: int = 16, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._readings: deque[Reading] = deque(maxlen=window + 1)
        self._profiler: Any = None
        self.start()

    def start(self) -> None:
        """Set everything to zero."""
        self._began = self._now()
        self._fetch_began: float | None = None
        self._batches, self._pictures, self._waited = 0, 0, 0.0
        self._readings.clear()
        self._readings.append(Reading())

    def listen(self, trainer: pl.Trainer) -> None:
        """Hear the trainer's profiler announce fetches; start counting."""
        profiler = trainer.profiler  # type: ignore[attr-defined]
        if profiler is not self._profiler:
            self._profiler = profiler
            profiler.start = self._before(profiler.start, self.fetch_began)
            profiler.stop = self._before(profiler.stop, self.fetch_ended)
        self.start()

    @staticmethod
    def _before(heard: Callable[[str], None], react: Callable[[], None]) -> Callable[[str], None]:
        def announce(action_name: str) -> None:
            if action_name.endswith(_FETCH):
                react()
            heard(action_name)

        return announce

    def fetch_began(self) -> None:
        """The loop asks for a batch."""
        self._fetch_began = self._now()

    def fetch_ended(self) -> None:
        """The batch is there."""
        if self._fetch_began is not None:
            self._waited += self._now() - self._fetch_began
            self._fetch_began = None

    def count(self, pictures: int) -> None:
        """A batch is done."""
        self._batches += 1
        self._pictures += pictures

    def read(self) -> Reading:
        """Totals since `start`."""
        return Reading(self._now() - self._began, self._batches, self._pictures, self._waited)

    def recent(self) -> Reading:
        """What happened over the last readings, for a steady rate; the call takes a reading."""
        reading = self.read()
        self._readings.append(reading)
        return reading.since(self._readings[0])


def pictures_in(trainer: pl.Trainer, batch: Any) -> int:
    """Pictures (views) of one step over all ranks, which hold equal shares."""
    return int(batch.num_views * batch.num_anchors * trainer.world_size)
