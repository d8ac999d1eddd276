"""The project's on-disk picture set: memory-mapped Arrow tables beside shards of encoded pictures.

A set is a folder::

    set.json           format version, name, counts, content hash
    pictures.arrow     one row per picture (Arrow IPC, uncompressed, memory-mapped)
    captions.arrow     one row per unique caption
    shard-00000.zip    encoded pictures, stored without compression (.zip or .tar)

`pictures.arrow` locates every picture by (shard, offset, size), so a read is one slice of a
memory-mapped file whatever container holds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.data.checks import check_description, check_places, check_tables
from lgrep.data.stores import ImageStore, RootsStore, ShardStore
from lgrep.errors import DataError

FORMAT = 1


class Table:
    """Pictures, their captions and where their bytes are.

    Rows are pictures, ordered by caption, so that the pictures of caption `g` are the rows
    `members(g)`. Columns are read through `column` (pictures) and `caption_column` (captions) as NumPy
    views of the memory map: worker processes share them without copies.

    Args:
        pictures: columns `id` (string), `group` (int32, row of the caption), plus any of `label`
            (int32, -1 = none), `family` (int32: pictures of one family are never positives of each
            other), and free ones such as `designer` or `licence`.
        captions: columns `id`, `text`, plus `texts` (list of strings: all captions of such a picture, where
            there are several) and free ones.
        store: reads the encoded bytes of a picture by its row.
        name: how messages and records call the set.
        content_hash: identity of the pictures and texts, kept in records.
        starts: int64 [captions + 1], first row of each caption and the number of rows, for tables that compute
            their columns (`RootsTable`); found from `group` when absent.
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
        self._origin: tuple[Path, np.ndarray[Any, Any] | None] | None = None
        self._arrays: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        self._starts = self._find_starts() if starts is None else starts

    def __len__(self) -> int:
        return len(self.pictures)

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
        """Pictures of every caption, int64."""
        return np.diff(self._starts)

    def members(self, group: int) -> range:
        """Rows of the pictures of caption `group`."""
        return range(int(self._starts[group]), int(self._starts[group + 1]))

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One column of the picture table as an array (zero-copy for numbers, decoded once for texts)."""
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
        return str(self.captions["text"][int(self._groups_of(row))].as_py())

    def texts(self, row: int) -> list[str]:
        """Every caption of picture `row`, the first is `caption(row)`; several where the captions have `texts`."""
        if "texts" not in self.captions.column_names:
            return [self.caption(row)]
        listed = self.captions["texts"][int(self._groups_of(row))].as_py()
        return [str(text) for text in listed] or [self.caption(row)]

    def caption_row(self, row: int) -> int:
        """Row of the caption of picture `row`."""
        return int(self._groups_of(row))

    def identity(self, row: int) -> str:
        """Name of one picture for messages and logs."""
        return str(self.pictures["id"][row].as_py())

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
        digest = hashlib.sha256(self.content_hash.encode() + picked.tobytes()).hexdigest()[:16]
        selected = Table(pictures, captions, self.store.subset(picked), self.name, digest)
        if self._origin is not None:
            folder, before = self._origin
            selected._origin = (folder, picked if before is None else before[picked])
        return selected

    def _find_starts(self) -> np.ndarray[Any, Any]:
        group = self.group
        if (group[1:] < group[:-1]).any():
            raise DataError(f"{self.name}: the rows of pictures.arrow must be ordered by 'group'")
        return np.searchsorted(group, np.arange(self.num_groups + 1))

    def _groups_of(self, rows: int | np.ndarray[Any, Any]) -> Any:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _take(self, rows: np.ndarray[Any, Any]) -> pa.Table:
        """Columns of some pictures."""
        return self.pictures.take(pa.array(rows)).combine_chunks()

    def _array(self, which: str, name: str) -> np.ndarray[Any, Any]:
        if (which, name) not in self._arrays:
            self._arrays[which, name] = _as_numpy(getattr(self, which), name)
        return self._arrays[which, name]

    def __reduce__(self) -> Any:
        """Spawned workers reopen a set from its folder, so that its memory map stays shared."""
        if self._origin is not None:
            return _reopen, self._origin
        return Table, (self.pictures, self.captions, self.store, self.name, self.content_hash)


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

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def group(self) -> np.ndarray[Any, Any]:
        """Row of the caption of every picture; made anew on each call (4 bytes per picture)."""
        return np.repeat(np.arange(self.num_groups, dtype=np.int32), self.counts)

    def identity(self, row: int) -> str:
        return self.store.identity(row)

    def _take(self, rows: np.ndarray[Any, Any]) -> pa.Table:
        ids = pa.array([self.identity(int(row)) for row in rows], pa.string())
        return pa.table({"id": ids, "group": pa.array(self._groups_of(rows).astype(np.int32))})

    def __reduce__(self) -> Any:
        return RootsTable, (self.store, self.captions, self._starts, self.name, self.content_hash)


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
            f"{found[0] if found else 'null'}, or write them with scripts/mine_neighbours.py"
        )
    return table.caption_column(name)


def _reopen(folder: Path, rows: np.ndarray[Any, Any] | None) -> Table:
    table = open_set(folder)
    return table if rows is None else table.select(rows)


def open_set(folder: str | Path) -> Table:
    """Open a picture set written by `write_set`.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of a newer format.
    """
    folder = Path(folder)
    about = _description(folder)
    pictures = _open_arrow(folder / "pictures.arrow")
    captions = _open_arrow(folder / "captions.arrow")
    check_tables(folder, about, pictures, captions)
    store = ShardStore(
        [folder / name for name in about["shards"]],
        shard=_as_numpy(pictures, "shard"),
        offset=_as_numpy(pictures, "offset"),
        size=_as_numpy(pictures, "size"),
    )
    check_places(folder, store.shards, pictures)
    table = Table(pictures, captions, store, about["name"], about["content_hash"])
    table._origin = (folder, None)
    return table


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "set.json"
    if not path.is_file():
        raise DataError(f"no picture set in {folder}: it has no set.json (lgrep.data.shards.write_set makes sets)")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return check_description(path, about, FORMAT)


def _open_arrow(path: Path) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
        table.validate(full=True)  # a wrong offset of a text would crash the process that reads it
        table.schema.names  # noqa: B018 (decodes them)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}. Copy the set again") from error
    return table


def _as_numpy(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    column = table[name]
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        flat: np.ndarray[Any, Any] = array.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(array), array.type.list_size)
    values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
    return values
