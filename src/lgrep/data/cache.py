"""Decoded pictures kept in memory that all loading processes of a training process share."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrep.data.decoding import Decoded, decode_pixels
from lgrep.data.table import Table

_ENTRY = np.dtype([("row", "i8"), ("start", "i8"), ("width", "i4"), ("height", "i4"), ("scalable", "i4")])
_BYTES_PER_SLOT = 1024  # pictures below 18 x 18 pixels could need more slots than there are
_PATIENCE = 1.0  # seconds; a process that died with the lock must not stop the others


class PictureCache:
    """Reads and decodes pictures, and keeps whole ones by row, first come first kept, up to a number of bytes.

    The memory has no name in the file system, so nothing of it outlives the processes, and only what is filled is
    taken from the machine. Each row has one slot, which other rows may hold. Processes that are forked share
    it; so do spawned ones where the system has `memfd_create`, elsewhere each of them fills its own.

    Args:
        budget: bytes of pixels; 0: nothing is kept.
        rows: of the table; 0: not known.
    """

    def __init__(self, budget: int, rows: int = 0) -> None:
        self.budget = budget
        self.rows = rows
        self._file = -1
        if budget <= 0:
            return
        self._lock: Any = multiprocessing.Lock()
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("lgrep-pictures")
            os.ftruncate(self._file, self._layout()[2])
        self._map()

    def get(self, table: Table, row: int, shrink: Callable[[int, int], int] | None = None) -> Decoded:
        """The picture of `row`, decoded at the scale that `shrink` says (see `decode_pixels`), kept or not.

        Raises:
            PictureError, OSError, ValueError: the picture cannot be read.
        """
        kept = self._kept(row)
        # What is kept has every pixel; views must not depend on whether their picture happens to be kept.
        if kept is not None and (shrink is None or not kept.scalable or shrink(kept.width, kept.height) == 1):
            return kept
        picture = decode_pixels(table.read(row), shrink)
        if kept is None and picture.scale == 1:
            self._keep(row, picture)
        return picture

    def _kept(self, row: int) -> Decoded | None:
        """Its pixels are read-only."""
        if self.budget <= 0 or not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            entry = self._slots[row % len(self._slots)].copy()
        finally:
            self._lock.release()
        if entry["row"] != row + 1:
            return None
        start, width, height = (int(entry[name]) for name in ("start", "width", "height"))
        pixels = self._pixels[start : start + 3 * width * height].reshape(height, width, 3)
        pixels.flags.writeable = False
        return Decoded(pixels, width, height, scalable=bool(entry["scalable"]))

    def _keep(self, row: int, picture: Decoded) -> None:
        start = self._reserve(row, picture.pixels.size) if self.budget > 0 else None
        if start is None:
            return
        self._pixels[start : start + picture.pixels.size] = picture.pixels.reshape(-1)
        if self._lock.acquire(
            timeout=_PATIENCE
        ):  # published after its pixels, which the lock orders on every processor
            try:
                entry = (row + 1, start, picture.width, picture.height, picture.scalable)
                self._slots[row % len(self._slots)] = entry
            finally:
                self._lock.release()

    def _reserve(self, row: int, size: int) -> int | None:
        """Where `size` bytes may be written; None if the slot is taken or the memory full."""
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            slot, start = self._slots[row % len(self._slots)], int(self._used[0])
            if slot["row"] != 0 or start + size > self.budget:
                return None
            slot["row"] = -1  # being written
            self._used[0] = start + size
            return start
        finally:
            self._lock.release()

    def _layout(self) -> tuple[int, int, int]:
        """Number of slots, where the pixels begin, and the size of all."""
        slots = max(1, self.budget // _BYTES_PER_SLOT)
        slots = min(slots, self.rows) if self.rows else slots
        pixels = 8 + slots * _ENTRY.itemsize
        return slots, pixels, pixels + self.budget

    def _map(self) -> None:
        slots, pixels, size = self._layout()
        memory = mmap.mmap(self._file, size)  # shared with forked processes, also without a file
        self._used: NDArray[np.int64] = np.frombuffer(memory, np.int64, 1)
        self._slots: NDArray[Any] = np.frombuffer(memory, _ENTRY, slots, offset=8)
        self._pixels: NDArray[np.uint8] = np.frombuffer(memory, np.uint8, offset=pixels)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {"budget": self.budget, "rows": self.rows}
        if self._file >= 0 and get_spawning_popen() is not None:
            state |= {"file": reduction.DupFd(self._file), "lock": self._lock}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "file" not in state:
            self.__init__(state["budget"], state["rows"])  # type: ignore[misc]
            return
        self.budget, self.rows, self._lock = state["budget"], state["rows"], state["lock"]
        self._file = state["file"].detach()
        self._map()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)
