"""Image stores: where the encoded bytes of a picture are read from."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lgrep.errors import DataError


class ImageStore(Protocol):
    """Reads encoded pictures by row. Picklable: workers open their own handles."""

    def read(self, row: int) -> bytes:
        """Encoded bytes of picture `row`; OSError or ValueError when they cannot be had."""
        ...

    def locate(self, row: int) -> str:
        """Where the bytes are, for messages."""
        ...

    def subset(self, rows: np.ndarray[Any, Any]) -> ImageStore:
        """The same store with picture `rows[i]` as row `i`."""
        ...


class FolderStore:
    """One file per picture."""

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root = root
        self.files = np.asarray(files)

    def read(self, row: int) -> bytes:
        return (self.root / str(self.files[row])).read_bytes()

    def locate(self, row: int) -> str:
        return str(self.root / str(self.files[row]))

    def subset(self, rows: np.ndarray[Any, Any]) -> FolderStore:
        return FolderStore(self.root, self.files[rows])


class ShardStore:
    """Byte ranges of memory-mapped shard files (stored zip or tar)."""

    def __init__(
        self,
        shards: Sequence[Path],
        shard: np.ndarray[Any, Any],
        offset: np.ndarray[Any, Any],
        size: np.ndarray[Any, Any],
    ) -> None:
        missing = [str(path) for path in shards if not path.is_file()]
        if missing:
            raise DataError(
                f"missing shard file: {missing[0]}" + (f" (and {len(missing) - 1} more)" * bool(missing[1:]))
            )
        self.shards = [Path(path) for path in shards]
        self.shard, self.offset, self.size = shard, offset, size
        self._maps: dict[int, mmap.mmap] = {}

    def read(self, row: int) -> bytes:
        number, start, size = int(self.shard[row]), int(self.offset[row]), int(self.size[row])
        if number not in self._maps:
            with open(self.shards[number], "rb") as handle:
                self._maps[number] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        data = self._maps[number][start : start + size]
        if len(data) != size:
            raise ValueError(f"{self.locate(row)} lies beyond the end of the file")
        return data

    def locate(self, row: int) -> str:
        return f"{self.shards[int(self.shard[row])]} at byte {int(self.offset[row])}"

    def subset(self, rows: np.ndarray[Any, Any]) -> ShardStore:
        return ShardStore(self.shards, self.shard[rows], self.offset[rows], self.size[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}
