"""Image stores: where the encoded bytes of a picture are read from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from lgrep.data.arrow_files import Shared
from lgrep.data.containers.ranges import OpenFiles, check_size
from lgrep.data.containers.zips import Directories, Member, read_member
from lgrep.errors import DataError

Numbers: TypeAlias = np.ndarray[Any, Any]


class ImageStore(Protocol):
    """Reads encoded pictures by row. Picklable: workers open their own handles."""

    def read(self, row: int) -> bytes:
        """Encoded bytes of picture `row`; OSError or ValueError when they cannot be had."""
        ...

    def locate(self, row: int) -> str:
        """Where the bytes are, for messages."""
        ...

    def subset(self, rows: Numbers) -> ImageStore:
        """The same store with picture `rows[i]` as row `i`."""
        ...


class PerRow:
    """A store whose values per row travel to worker processes as files that all map.

    Attributes:
        per_row: names of the constructor's arguments that hold a value per row.
        plain: names of its other arguments.
        shared: files of `per_row`, as far as they exist.
    """

    per_row: ClassVar[tuple[str, ...]] = ()
    plain: ClassVar[tuple[str, ...]] = ()
    shared: dict[str, Shared]

    def __reduce__(self) -> Any:
        shared = self.__dict__.setdefault("shared", {})
        for name in self.per_row:
            if getattr(self, name) is not None and name not in shared:
                shared[name] = Shared(getattr(self, name))
        return _restored, (type(self), {name: getattr(self, name) for name in self.plain}, shared)


def _restored(kind: type[Any], plain: dict[str, Any], shared: dict[str, Shared]) -> Any:
    store = kind(**plain, **{name: part.value for name, part in shared.items()})
    store.shared = shared
    return store


class FolderStore(PerRow):
    """One file per picture.

    Args:
        root: folder.
        files: paths below it, as `os` gives them (a name need not be valid UTF-8), or an Arrow array of their bytes.
    """

    per_row, plain = ("files",), ("root",)

    def __init__(self, root: Path, files: Sequence[str] | pa.Array | pa.ChunkedArray) -> None:
        self.root = root
        encoded = isinstance(files, (pa.Array, pa.ChunkedArray))
        self.files: Any = files if encoded else pa.array([os.fsencode(file) for file in files], pa.large_binary())

    def read(self, row: int) -> bytes:
        return (self.root / self._name(row)).read_bytes()

    def locate(self, row: int) -> str:
        return str(self.root / self._name(row))

    def subset(self, rows: Numbers) -> FolderStore:
        return FolderStore(self.root, self.files.take(pa.array(rows)))

    def _name(self, row: int) -> str:
        return os.fsdecode(self.files[int(row)].as_py())


class RootsStore(PerRow):
    """The same relative paths below several folders: row = number of the path * folders + number of the folder.

    Nothing is kept per picture, so 12 million paths below 10 folders cost what 12 million strings cost.

    Args:
        roots: n different folders.
        paths: relative paths (an Arrow array of strings).
        rows: rows of this numbering that the store's own rows stand for; None: all, in order.
    """

    per_row, plain = ("paths", "rows"), ("roots",)

    def __init__(self, roots: Sequence[Path], paths: pa.ChunkedArray | pa.Array, rows: Numbers | None = None) -> None:
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

    def subset(self, rows: Numbers) -> RootsStore:
        return RootsStore(self.roots, self.paths, rows if self.rows is None else self.rows[rows])

    def _split(self, row: int) -> tuple[int, str]:
        number, root = divmod(int(row if self.rows is None else self.rows[row]), len(self.roots))
        return root, self.paths[number].as_py()


class ShardStore(PerRow):
    """Byte ranges of shard files (tar, or zip without compression).

    Args:
        shards: files.
        shard: number of the file of every row.
        offset: first byte of every row.
        size: bytes of every row.
    """

    per_row: ClassVar[tuple[str, ...]] = ("shard", "offset", "size")
    plain = ("shards",)

    def __init__(
        self,
        shards: Sequence[Path],
        shard: Numbers,
        offset: Numbers,
        size: Numbers,
    ) -> None:
        missing = [str(path) for path in shards if not path.is_file()]
        if missing:
            raise DataError(
                f"missing shard file: {missing[0]}" + (f" (and {len(missing) - 1} more)" * bool(missing[1:]))
            )
        self.shards = [Path(path) for path in shards]
        self.shard, self.offset, self.size = shard, offset, size
        self._files = OpenFiles()

    def read(self, row: int) -> bytes:
        start, size = int(self.offset[row]), int(self.size[row])
        check_size(size)
        data = self._files.read(self.shards[int(self.shard[row])], start, size)
        if len(data) != size:
            raise ValueError(f"{self.locate(row)} lies beyond the end of the file")
        return data

    def locate(self, row: int) -> str:
        return f"{self.shards[int(self.shard[row])]} at byte {int(self.offset[row])}"

    def subset(self, rows: Numbers) -> ShardStore:
        return ShardStore(self.shards, self.shard[rows], self.offset[rows], self.size[rows])


class ZipStore(ShardStore):
    """Members of zip archives by place, stored or deflated; every read is checked against the CRC noted.

    Args:
        shards: zip files.
        shard: number of the file of every row.
        offset: byte of every member's local header.
        size: packed bytes of every row.
        length: unpacked bytes of every row.
        method: of packing.
        crc: CRC-32 of the unpacked bytes.
    """

    per_row = ("shard", "offset", "size", "length", "method", "crc")

    def __init__(
        self,
        shards: Sequence[Path],
        shard: Numbers,
        offset: Numbers,
        size: Numbers,
        length: Numbers,
        method: Numbers,
        crc: Numbers,
    ) -> None:
        super().__init__(shards, shard, offset, size)
        self.length, self.method, self.crc = length, method, crc

    def read(self, row: int) -> bytes:
        place = (int(getattr(self, name)[row]) for name in self.per_row[1:])
        return read_member(self._files, self.shards[int(self.shard[row])], Member(*place))

    def subset(self, rows: Numbers) -> ZipStore:
        return ZipStore(self.shards, *(getattr(self, name)[rows] for name in self.per_row))


class ArchiveStore(PerRow):
    """Members of zip archives by name; every read is checked against the CRC of the archive.

    Args:
        archives: zip files; a missing one fails only when it is read.
        archive: number of the archive of every row.
        member: name of the member of every row (an Arrow array of strings).
    """

    per_row, plain = ("archive", "member"), ("archives",)

    def __init__(self, archives: Sequence[Path], archive: Numbers, member: pa.Array | pa.ChunkedArray) -> None:
        self.archives = [Path(path) for path in archives]
        self.archive, self.member = archive, member
        self._files = OpenFiles()
        self._directories = Directories(self._files)

    def read(self, row: int) -> bytes:
        path = self.archives[int(self.archive[row])]
        return read_member(self._files, path, self._directories.find(path, self.member[int(row)].as_py()))

    def locate(self, row: int) -> str:
        return f"{self.archives[int(self.archive[row])]}/{self.member[int(row)].as_py()}"

    @property
    def shard(self) -> Numbers:
        """Number of the archive of every row."""
        return self.archive

    def subset(self, rows: Numbers) -> ArchiveStore:
        return ArchiveStore(self.archives, self.archive[rows], self.member.take(pa.array(rows)))
