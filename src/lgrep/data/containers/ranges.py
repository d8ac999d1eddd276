"""Byte ranges of many large files, read without memory maps: a mapped file that shrinks kills the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

MAX_BYTES = 256 * 2**20  # of one picture: larger sizes are damage or a bomb
_OPEN = 64  # files that one process keeps open


class _Handle:
    """An open file; closed when nobody reads from it any more, so that a thread may drop it while another reads."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` is gone when the interpreter ends
        if hasattr(self, "number"):
            close(self.number)


class OpenFiles:
    """Files by path, the ones used last kept open. Picklable: every process opens its own.

    Reads give their position with the call, so that forked workers may share handles.

    Args:
        limit: most files kept open.
    """

    def __init__(self, limit: int = _OPEN) -> None:
        self.limit = limit
        self._handles: dict[Path, _Handle] = {}  # the one used last comes last

    def read(self, path: Path, start: int, size: int) -> bytes:
        """`size` bytes from byte `start`, or fewer where the file ends.

        Raises:
            OSError: names the file.
        """
        try:
            handle = self._handle(path)
            return os.pread(handle.number, size, start)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def size(self, path: Path) -> int:
        """Bytes of the file."""
        handle = self._handle(path)
        return os.fstat(handle.number).st_size

    def _handle(self, path: Path) -> _Handle:
        handle = self._handles.pop(path, None) or _Handle(path)
        self._handles[path] = handle
        while len(self._handles) > self.limit:
            self._handles.pop(next(iter(self._handles)), None)
        return handle

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[int]]:
        return OpenFiles, (self.limit,)


def check_size(size: int) -> None:
    """Refuse to read what no picture needs.

    Raises:
        ValueError: more than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, more than the limit of {MAX_BYTES:,} for one picture")
