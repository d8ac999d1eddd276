"""Progress of a long job that other processes do: how far, how fast, how long to go."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


class Progress:
    """Shows a count while the `with` block runs: a live bar on a terminal, a line now and then elsewhere (stderr).

    Args:
        total: to count to.
        before: counted in an earlier run.
        done: counted in this run so far; asked for twice a second.
        unit: what is counted.
        note: further text at any time.
    """

    def __init__(
        self, total: int, before: int, done: Callable[[], int], unit: str, note: Callable[[], str] = lambda: ""
    ) -> None:
        self.total, self.before, self.done, self.unit, self.note = total, before, done, unit, note
        self._ended = threading.Event()
        self._started = time.monotonic()
        self._bar: Bar | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
            self._bar = Bar(BarColumn(bar_width=24), TextColumn("{task.description}"), console=Console(stderr=True))
            self._bar.add_task(self._text(), total=self.total, completed=self.before)
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._show()
        if self._bar is not None:
            self._bar.stop()

    def _watch(self) -> None:
        while not self._ended.wait(0.5 if self._bar is not None else _PLAIN_SECONDS):
            self._show()

    def _show(self) -> None:
        if self._bar is None:
            print(self._text(), file=sys.stderr, flush=True)
        else:
            self._bar.update(self._bar.task_ids[0], completed=self.before + self.done(), description=self._text())

    def _text(self) -> str:
        text = describe(self.total, self.before, self.done(), time.monotonic() - self._started, self.unit)
        return "  ".join([text, *filter(None, [self.note()])])


def describe(total: int, before: int, done: int, seconds: float, unit: str) -> str:
    """One line of progress.

    >>> describe(12000, 1000, 500, 10, "pictures")
    '1,500/12,000 pictures  50/s  ETA 0:03:30'
    """
    rate = done / seconds if seconds > 0 else 0.0
    parts = [f"{before + done:,}/{total:,} {unit}", f"{rate:,.0f}/s"]
    if rate > 0:
        left = round((total - before - done) / rate)
        parts.append(f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}")
    return "  ".join(parts)
