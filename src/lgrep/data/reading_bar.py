"""A bar on stderr while a long file is read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lgrep.ranks import rank

_LONG = 2**26  # bytes that take a second or so


@contextmanager
def reading_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """`advance(bytes)` moves the bar, which is shown on a terminal, by the first process, for long files only.

    Args:
        title: what is read.
        total: bytes.
    """
    if total < _LONG or not sys.stderr.isatty() or rank() != 0:
        yield lambda number: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda number: bar.advance(task, number)
