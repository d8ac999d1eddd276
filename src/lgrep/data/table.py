"""The project's on-disk picture set: memory-mapped Arrow tables beside shards of encoded pictures.

A set is a folder::

    set.json           format version, name, counts, content hash
    pictures.arrow     one row per picture (Arrow IPC, uncompressed, memory-mapped)
    captions.arrow     one row per unique caption; `first` is the row of its first picture
    shard-00000.zip    encoded pictures, stored without compression (.zip or .tar)

`pictures.arrow` locates every picture by (shard, offset, size), so a read is one call whatever container holds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.data.arrow_files import Shared, as_numpy, map_arrow
from lgrep.data.checks import check_first, check_places, check_tables, read_description
from lgrep.data.stores import ImageStore, PerRow, RootsStore, ShardStore
from lgrep.errors import DataError

FORMAT = 1
PLACE = ("shard", "offset", "size")  # columns that say where a picture lies


class Table:
    """Pictures, their captions and where their bytes are.

    Rows are pictures, ordered by caption, so that the pictures of caption `g` are the rows
    `members(g)`. Columns are read through `column` (pictures) and `caption_column` (captions) as NumPy
    views of the memory map. Worker processes share them without copies, forked or spawned: a table travels as the
    names of its files (see `lgrep.data.arrow_files.Shared`).

    Args:
        pictures: columns `id` (string), `group` (int32, row of the caption), plus any of `label`
            (int32, -1 = none), `family` (int32: pictures of one family are never positives of each
            other), and free ones such as `designer` or `licence`.
        captions: columns `id`, `text`, plus `texts` (list of strings: all captions of such a picture, where
            there are several), `first` (int64, row of the first picture) and free ones.
        store: reads the encoded bytes of a picture by its row.
        name: how messages and records call the set.
        content_hash: identity of the pictures and texts, kept in records.
        starts: int64 [captions + 1], first row of each caption and the number of rows, for tables that compute
            their columns (`RootsTable`); taken from `first`, or else found from `group`, when absent.
    """

    def __init__(
        self,
        pictures: pa.Table,
        captions: pa.Table,
        store: ImageStore,
        name: str,
        content_hash: str,
        starts: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.pictures = pictures
        self.captions = captions
        self.store = store
        self.name = name
        self.content_hash = content_hash
        self._arrays: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        self._shared: dict[str, Shared] = {}
        self._rows = len(pictures) if starts is None else int(starts[-1])
        self._first = self._find_first() if starts is None else starts[:-1]

    def __len__(self) -> int:
        return self._rows

    @property
    def num_groups(self) -> int:
        """Number of unique captions."""
        return len(self.captions)

    @property
    def group(self) -> np.ndarray[Any, Any]:
        """Row of the caption of every picture, ascending, int32."""
        return self.column("group")

    @property
    def counts(self) -> np.ndarray[Any, Any]:
        """Pictures of every caption, int64; made anew on each call."""
        return np.diff(self._first, append=self._rows)

    def members(self, group: int) -> range:
        """Rows of the pictures of caption `group`."""
        after = group + 1
        return range(int(self._first[group]), int(self._first[after]) if after < len(self._first) else self._rows)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One column of the picture table as an array: a view for numbers.

        Texts are decoded once and kept, about 80 bytes each: for large tables take `pictures[name]`.
        """
        return self._array("pictures", name)

    def caption_column(self, name: str) -> np.ndarray[Any, Any]:
        """One column of the caption table as an array; fixed-size lists come as [N, D]."""
        return self._array("captions", name)

    def has(self, name: str) -> bool:
        """Whether the picture table has this column."""
        return name in self.pictures.column_names

    def read(self, row: int) -> bytes:
        """Encoded bytes of one picture."""
        return self.store.read(row)

    def caption(self, row: int) -> str:
        """Text of the caption of picture `row`."""
        return _text(self.captions["text"][int(self._groups_of(row))])

    def texts(self, row: int) -> list[str]:
        """Every caption of picture `row`, the first is `caption(row)`; several where the captions have `texts`."""
        if "texts" not in self.captions.column_names:
            return [self.caption(row)]
        listed = self.captions["texts"][int(self._groups_of(row))].values or ()
        return [_text(text) for text in listed] or [self.caption(row)]

    def caption_row(self, row: int) -> int:
        """Row of the caption of picture `row`."""
        return int(self._groups_of(row))

    def identity(self, row: int) -> str:
        """Name of one picture for messages and logs."""
        return _text(self.pictures["id"][int(row)])

    def select(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Table:
        """The table of these pictures only; captions left without a picture are dropped.

        `rows` are put in ascending order; groups are renumbered, order kept.
        """
        picked = np.unique(np.asarray(rows, dtype=np.int64))
        old_groups, new_group = np.unique(self._groups_of(picked), return_inverse=True)
        pictures = self._take(picked)
        position = pictures.column_names.index("group")
        pictures = pictures.set_column(position, "group", pa.array(new_group.astype(np.int32)))
        captions = self.captions.take(pa.array(old_groups)).combine_chunks()
        if "first" in captions.column_names:
            first = np.searchsorted(new_group, np.arange(len(old_groups)))
            captions = captions.set_column(captions.column_names.index("first"), "first", pa.array(first, pa.int64()))
        digest = hashlib.sha256(self.content_hash.encode() + picked.tobytes()).hexdigest()[:16]
        return Table(pictures, captions, self.store.subset(picked), self.name, digest)

    def _find_first(self) -> np.ndarray[Any, Any]:
        if "first" in self.captions.column_names:
            first = self._array("captions", "first")
            check_first(self.name, first, self.group)
            return first
        group = self.group
        if any((block[1:] < block[:-1]).any() for block in _overlapping(group)):
            raise DataError(f"{self.name}: the rows of pictures.arrow must be ordered by 'group'")
        return np.searchsorted(group, np.arange(self.num_groups))

    def _groups_of(self, rows: int | np.ndarray[Any, Any]) -> Any:
        return self.group[rows]

    def _take(self, rows: np.ndarray[Any, Any]) -> pa.Table:
        """Columns of some pictures."""
        return self.pictures.take(pa.array(rows)).combine_chunks()

    def _array(self, which: str, name: str) -> np.ndarray[Any, Any]:
        if (which, name) not in self._arrays:
            self._arrays[which, name] = as_numpy(getattr(self, which)[name])
        return self._arrays[which, name]

    def __reduce__(self) -> Any:
        for name in _PARTS:
            self._shared.setdefault(name, Shared(getattr(self, name)))
        rest = {name: value for name, value in self.__dict__.items() if name not in (*_PARTS, "_arrays", "_shared")}
        return _restored, (type(self), rest, {name: self._shared[name] for name in _PARTS})


_PARTS = ("pictures", "captions", "_first")


def _restored(kind: type[Table], rest: dict[str, Any], shared: dict[str, Shared]) -> Table:
    """A table that travelled, as it was; what was checked once is not checked again."""
    table = kind.__new__(kind)
    table.__dict__.update(rest, _arrays={}, _shared=shared, **{name: part.value for name, part in shared.items()})
    return table


class RootsTable(Table):
    """Pictures that several folders hold under the same relative paths; every column is computed.

    The pictures of a path are consecutive rows, one per folder.

    Args:
        store: the paths, in the order of their captions, and the folders.
        captions: see `Table`.
        starts: see `Table`; `[0, n, 2n, ...]` when every path has a caption of its own.
        name: see `Table`.
        content_hash: see `Table`.
    """

    store: RootsStore

    def __init__(
        self, store: RootsStore, captions: pa.Table, starts: np.ndarray[Any, Any], name: str, content_hash: str
    ) -> None:
        super().__init__(pa.table({}), captions, store, name, content_hash, starts)

    @property
    def group(self) -> np.ndarray[Any, Any]:
        """Row of the caption of every picture; made anew on each call (4 bytes per picture)."""
        return np.repeat(np.arange(self.num_groups, dtype=np.int32), self.counts)

    def identity(self, row: int) -> str:
        return self.store.identity(row)

    def _groups_of(self, rows: int | np.ndarray[Any, Any]) -> Any:
        return np.searchsorted(self._first, rows, side="right") - 1

    def _take(self, rows: np.ndarray[Any, Any]) -> pa.Table:
        ids = pa.array([self.identity(int(row)) for row in rows], pa.string())
        return pa.table({"id": ids, "group": pa.array(self._groups_of(rows).astype(np.int32))})


def stored_features(table: Table, name: str) -> np.ndarray[Any, Any]:
    """Stored features [captions, D] of the captions: a column of fixed-size lists.

    Raises:
        DataError: there is no such column.
    """
    schema = table.captions.schema
    found = [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]
    if name not in found:
        raise DataError(
            f"{table.name}: the captions have no stored features '{name}' ("
            f"{'there are ' + ', '.join(found) if found else 'there are none'}). Type text.features="
            f"{found[0] if found else 'null'}, or write them as a column of the captions (lgrep.data.shards.write_set)"
        )
    return table.caption_column(name)


def open_set(folder: str | Path) -> Table:
    """Open a picture set written by `write_set`.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of a newer format.
    """
    folder = Path(folder)
    about = read_description(folder, FORMAT)
    shards = [folder / name for name in about["shards"]]
    return open_tables(folder, about, lambda rows: ShardStore(shards, *(as_numpy(rows[name]) for name in PLACE)))


def open_tables(folder: Path, about: dict[str, Any], store_of: Callable[[pa.Table], ImageStore]) -> Table:
    """The table of `pictures.arrow` and `captions.arrow` in a folder.

    Args:
        folder: holds both files.
        about: `name`, `content_hash`, `shards` (one entry for each number of the column `shard`) and, if known, the
            numbers of `pictures` and `captions`.
        store_of: makes the store from the rows of `pictures.arrow`.

    Raises:
        DataError: missing or damaged files.
    """
    files = {name: folder / f"{name}.arrow" for name in ("pictures", "captions")}
    pictures, captions = map_arrow(files["pictures"]), map_arrow(files["captions"])
    check_tables(folder, about, pictures, captions)
    store = store_of(pictures)
    if isinstance(store, ShardStore):
        check_places(folder, store.shards, pictures)
    if isinstance(store, PerRow):
        store.shared = {name: Shared(getattr(store, name), files["pictures"], name) for name in store.per_row}
    table = Table(pictures, captions, store, about["name"], about["content_hash"])
    table._shared = {name: Shared(getattr(table, name), file) for name, file in files.items()}
    if "first" in captions.column_names:
        table._shared["_first"] = Shared(table._first, files["captions"], "first")
    return table


def _text(value: pa.Scalar) -> str:
    try:
        return str(value.as_py())
    except UnicodeDecodeError:  # a damaged byte
        return str(value.as_buffer().to_pybytes().decode("utf-8", "replace"))


def _overlapping(values: np.ndarray[Any, Any], rows: int = 2**20) -> Iterator[np.ndarray[Any, Any]]:
    """Blocks of an array; each begins with the last value of the one before."""
    for start in range(0, len(values), rows):
        yield values[max(0, start - 1) : start + rows]
