"""Failures of other processes, told in one message that names the picture in hand."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import get_worker_info

from lgrep.data.notices import shown
from lgrep.errors import DataError, LgrepError

LESS_MEMORY = "Type loader.workers=N with fewer workers, or a smaller loader.cache_mb"
_SLOTS = 256  # loading processes of one training process that are told apart


class InHand:
    """The picture that every loading process began last, in memory that the training process can read.

    A crash of a decoder ends its process without a word; this says which file it was.
    """

    def __init__(self) -> None:
        self._begun = torch.full((_SLOTS, 2), -1, dtype=torch.long)  # (process, row)
        self._begun.share_memory_()  # type: ignore[no-untyped-call]
        self._view: tuple[int, Any] = (-1, None)

    def take(self, row: int) -> None:
        """Note that this process begins `row`."""
        process = os.getpid()
        if self._view[0] != process:
            worker = get_worker_info()
            slot = self._begun[0 if worker is None else worker.id % _SLOTS]
            slot[0] = process
            self._view = (process, slot.numpy())
        self._view[1][1] = row

    def row(self, process: int | None = None) -> int:
        """The row that a process (this one by default) began last; -1 when there is none."""
        begun = self._begun[self._begun[:, 0] == (os.getpid() if process is None else process)]
        return int(begun[-1, 1]) if len(begun) else -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_view": (-1, None)}


@contextmanager
def named_failures(data: Any, less_memory: str = LESS_MEMORY) -> Iterator[None]:
    """Turn what torch says about loading processes into one short message.

    Args:
        data: the data module; its `dataset` (if loading has begun) knows the pictures in hand.
        less_memory: what to type when memory ran out.

    Raises:
        DataError: a loading process died.
        LgrepError: raised in a loading process, without that process's traceback in the message.
    """
    try:
        yield
    except LgrepError as error:
        raise type(error)(_last_message(error)) from error
    except RuntimeError as error:
        died = re.match(
            r"DataLoader worker \(pid(?:\(s\))? (\d+).*?\) (is killed by signal: .*|exited unexpectedly)", str(error)
        )
        if died is None:
            raise
        raise DataError(
            _died(int(died[1]), died[2].strip(" ."), getattr(data, "dataset", None), less_memory)
        ) from error


def _last_message(error: LgrepError) -> str:
    """A worker's error carries its traceback as text; the message is what follows it."""
    mark = f"{type(error).__module__}.{type(error).__qualname__}: "
    text = str(error)
    return text.rpartition(mark)[2].strip() if text.startswith("Caught ") and mark in text else text


def _died(process: int, how: str, dataset: Any, less_memory: str) -> str:
    row = -1 if dataset is None else dataset.in_hand.row(process)
    place = f"; the last picture it began is {shown(dataset.table.store.locate(row))}" if row >= 0 else ""
    return (
        f"a loading process died ({how.replace('is killed', 'killed')}){place}. If it is always this picture, "
        f"remove it; if memory ran out: {less_memory[0].lower()}{less_memory[1:]}"
    )
