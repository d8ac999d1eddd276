"""Loading processes: how many there is room for, and how they answer signals."""

from __future__ import annotations

import os
import signal

GRACE = 30  # seconds that a worker outlives a SIGTERM


def outlive_signals(_: int = 0) -> None:
    """For loading workers: the training process decides when they end.

    A Ctrl-C in a terminal and a scheduler's SIGTERM or SIGUSR1 reach every process of the job; workers that died of
    them would take the step under way with them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
