"""Signals that ask a program to stop."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from types import FrameType
from typing import Any, Self

# SIGUSR1 is what `sbatch --signal=USR1@SECONDS` sends before a job's time is over; Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class CaughtSignals(ABC):
    """Takes SIGINT, SIGTERM and SIGUSR1: a context manager, without effect outside of the main thread.

    Attributes:
        received: number of the signal that asked for a stop.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @abstractmethod
    def _receive(self, number: int, frame: FrameType | None) -> None: ...
