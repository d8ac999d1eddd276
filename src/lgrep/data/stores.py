"""Image stores: where the encoded bytes of a picture are read from."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

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


class RootsStore:
    """The same relative paths below several folders: row = number of the path * folders + number of the folder.

    Nothing is kept per picture, so 12 million paths below 10 folders cost what 12 million strings cost.

    Args:
        roots: n different folders.
        paths: relative paths (an Arrow array of strings).
        rows: rows of this numbering that the store's own rows stand for; None: all, in order.
    """

    def __init__(self, roots: Sequence[Path], paths: pa.ChunkedArray, rows: np.ndarray[Any, Any] | None = None) -> None:
        self.roots = [Path(root) for root in roots]
        self.paths = paths
        self.rows = rows
        common = Path(os.path.commonpath([root.absolute().parent for root in self.roots]))
        self.names = [root.absolute().relative_to(common).as_posix() for root in self.roots]

    def read(self, row: int) -> bytes:
        root, path = self._split(row)
        return (self.roots[root] / path).read_bytes()

    def locate(self, row: int) -> str:
        root, path = self._split(row)
        return str(self.roots[root] / path)

    def identity(self, row: int) -> str:
        """Where the picture is below the folder that holds all roots."""
        root, path = self._split(row)
        return f"{self.names[root]}/{path}"

    def subset(self, rows: np.ndarray[Any, Any]) -> RootsStore:
        return RootsStore(self.roots, self.paths, rows if self.rows is None else self.rows[rows])

    def _split(self, row: int) -> tuple[int, str]:
        number, root = divmod(int(row if self.rows is None else self.rows[row]), len(self.roots))
        return root, self.paths[number].as_py()


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
