"""Rows of numbers in one file that any number of processes fill, range by range."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lgrep.data.notices import notice, reason_of, shown
from lgrep.errors import DataError

Make = Callable[[range], NDArray[Any]]
_POLL = 0.2  # seconds between two looks at what other processes do
_READ = 2**24


class RangeFile:
    """An array [rows, width] on disk, made in ranges of fixed length.

    A range is finished when its hash is there, which is written after its data reached the disk: a process may be
    killed at any moment and the next one makes only what is missing. A process holds a lock on a range while it
    makes it; the system frees it when the process ends, however it ends.

    Args:
        path: file of the values; the hashes are in the folder `<name>.done` beside it.
        rows: rows of the whole.
        width: values per row.
        dtype: of a value.
        range_rows: rows of a range, which is what a kill can cost per process.
    """

    def __init__(self, path: Path, rows: int, width: int, dtype: str, range_rows: int) -> None:
        self.path = path
        self.rows, self.width, self.dtype = rows, width, np.dtype(dtype)
        self.range_rows = range_rows
        self.hashes = path.with_name(f"{path.stem}.done")
        self.hashes.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return -(-self.rows // self.range_rows)

    @property
    def finished_rows(self) -> int:
        """Rows of the finished ranges, whoever made them."""
        names = {name for name in os.listdir(self.hashes) if name.isdigit()}
        return sum(len(self._range(number)) for number in range(len(self)) if self._name(number) in names)

    def array(self) -> NDArray[Any]:
        """All rows, memory-mapped and read-only; valid when `fill` has returned."""
        if not self.rows:
            return np.zeros((0, self.width), self.dtype)
        return np.memmap(self.path, self.dtype, "r", shape=(self.rows, self.width))

    def fill(self, make: Make) -> None:
        """Make every range that is missing, beside other processes, and wait for those that they make.

        Args:
            make: rows of the array -> their values [n, width].

        Raises:
            DataError: the values cannot be written.
        """
        with self._locks() as locks:
            pending = [number for number in range(len(self)) if not self._done(number)]
            while pending:
                busy = [number for number in pending if not self._make(number, make, locks)]
                pending = [number for number in busy if not self._done(number)]
                if pending:
                    time.sleep(_POLL)

    def drop_damaged(self) -> int:
        """Forget finished ranges whose values are not what was written; how many there were."""
        damaged = [number for number in range(len(self)) if self._done(number) and not self._intact(number)]
        for number in damaged:
            (self.hashes / self._name(number)).unlink(missing_ok=True)
        if damaged:
            notice(f"{shown(self.path)}: {len(damaged):,} of {len(self):,} parts are damaged and are made again")
        return len(damaged)

    def _make(self, number: int, make: Make, locks: BinaryIO) -> bool:
        """Make a range unless another process is about it; whether that was not so."""
        try:
            fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        try:
            if not self._done(number):
                self._write(number, make(self._range(number)))
        finally:
            fcntl.lockf(locks, fcntl.LOCK_UN, 1, number)
        return True

    def _write(self, number: int, values: NDArray[Any]) -> None:
        shape = (len(self._range(number)), self.width)
        if values.shape != shape:
            raise ValueError(f"{self.path}: got values {values.shape} for rows of shape {shape}")
        data = np.ascontiguousarray(values, self.dtype).tobytes()
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                start, view = self._bytes(number)[0], memoryview(data)
                while view:
                    written = os.pwrite(handle, view, start)
                    start, view = start + written, view[written:]
                os.fsync(handle)
            finally:
                os.close(handle)
            partial = self.hashes / f"{self._name(number)}.partial-{os.getpid()}"
            partial.write_text(hashlib.sha256(data).hexdigest(), encoding="ascii")
            os.replace(partial, self.hashes / self._name(number))
        except OSError as error:
            size = self.rows * self.width * self.dtype.itemsize / 2**30
            raise DataError(
                f"cannot write {shown(self.path)} ({reason_of(error)}); the whole file has {size:.1f} GiB. What is "
                "finished is kept: make room and type the same command to go on"
            ) from error

    def _intact(self, number: int) -> bool:
        start, size = self._bytes(number)
        digest = hashlib.sha256()
        try:
            expected = (self.hashes / self._name(number)).read_text(encoding="ascii")
            with self.path.open("rb") as file:
                file.seek(start)
                while size and (block := file.read(min(size, _READ))):
                    digest.update(block)
                    size -= len(block)
        except (OSError, UnicodeDecodeError):
            return False
        return digest.hexdigest() == expected

    def _done(self, number: int) -> bool:
        return (self.hashes / self._name(number)).exists()

    def _range(self, number: int) -> range:
        return range(number * self.range_rows, min((number + 1) * self.range_rows, self.rows))

    def _bytes(self, number: int) -> tuple[int, int]:
        """First byte and number of bytes of a range."""
        rows, row_size = self._range(number), self.width * self.dtype.itemsize
        return rows.start * row_size, len(rows) * row_size

    def _name(self, number: int) -> str:
        return f"{number:07d}"

    @contextmanager
    def _locks(self) -> Iterator[BinaryIO]:
        """One byte per range; closed once, since closing a file frees all locks that the process has on it."""
        with (self.hashes / "lock").open("ab") as file:
            yield file


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Runs its block in one process at a time; `path` is an empty file that stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """A file that one process makes while the others wait for it.

    Args:
        path: the file.
        make: writes it to the path that it is given.
    """
    with only_one(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            partial = path.with_name(f"{path.name}.partial")
            try:
                make(partial)
                os.replace(partial, path)
            except OSError as error:
                raise DataError(f"cannot write {shown(path)} ({reason_of(error)})") from error
    return path
