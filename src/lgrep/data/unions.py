"""One table over the rows of several, without copies of what they hold per picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lgrep.data.arrow_files import as_numpy
from lgrep.data.columns import plain_schema
from lgrep.data.filters import Ids, picture_column, picture_fields
from lgrep.data.stores import ImageStore, PerRow
from lgrep.data.table import PLACE, Table

_COMPUTED = ("id", "group", "part")
_FILLED = ("label", "family")  # made up for parts that lack them
_MOST_TEXT = 2**31 - 1  # bytes that an array with 32-bit offsets can hold


class JoinedStore(PerRow):
    """Rows of several stores, one after the other.

    Args:
        stores: of the parts.
        bounds: first row of each part, and the number of rows.
        rows: rows of this numbering that the store's own rows stand for; None: all, in order.
    """

    per_row = ("bounds", "rows")
    plain = ("stores",)

    def __init__(
        self, stores: Sequence[ImageStore], bounds: np.ndarray[Any, Any], rows: np.ndarray[Any, Any] | None = None
    ) -> None:
        self.stores = list(stores)
        self.bounds = bounds
        self.rows = rows

    def read(self, row: int) -> bytes:
        part, inner = self._split(row)
        return self.stores[part].read(inner)

    def locate(self, row: int) -> str:
        part, inner = self._split(row)
        return self.stores[part].locate(inner)

    @property
    def shard(self) -> np.ndarray[Any, Any] | None:
        """Number of the archive of every row, where all stores have archives; made anew on each call."""
        numbers, pieces = 0, []
        for store in self.stores:
            shard = getattr(store, "shard", None)
            if shard is None:
                return None
            pieces.append(shard.astype(np.int64) + numbers)
            numbers += int(shard.max(initial=-1)) + 1
        joined = np.concatenate(pieces)
        return joined if self.rows is None else joined[self.rows]

    def subset(self, rows: np.ndarray[Any, Any]) -> JoinedStore:
        return JoinedStore(self.stores, self.bounds, rows if self.rows is None else self.rows[rows])

    def _split(self, row: int) -> tuple[int, int]:
        outer = int(row if self.rows is None else self.rows[row])
        part = int(np.searchsorted(self.bounds, outer, side="right")) - 1
        return part, outer - int(self.bounds[part])


class UnionTable(Table):
    """The pictures of several tables; ids are `<part>/<id>`, groups are counted on, the rest stays in the parts.

    Columns: `id`, `group`, `part` (int16; the field's metadata has the names), `label` where asked for (-1 in parts
    without), `family` where a part has it, and those that all parts have in one type. Captions keep `id` and `text`,
    `texts` where a part has them, and what all parts have in one type.

    Args:
        parts: name -> table, in the order of their rows.
        name: how messages and records call the set.
        merge: captions of equal text become one, with the pictures of all (captions without text never do);
            otherwise each stays its own.
        labels: whether the labels of all parts count the same classes.
    """

    def __init__(self, parts: Mapping[str, Table], name: str, merge: bool = False, labels: bool = True) -> None:
        self.parts = dict(parts)
        self.merge, self.labels = merge, labels
        tables = list(parts.values())
        self._bounds = _sums([len(table) for table in tables])
        self._fields = _common_fields([picture_fields(table) for table in tables], list(parts), labels)
        self._order: np.ndarray[Any, Any] | None = None  # row of the parts one after the other, for each row
        captions, counts = _joined_captions(tables), np.concatenate([table.counts for table in tables])
        if merge:
            captions, counts, self._order = _merged(captions, counts)
        store = JoinedStore([table.store for table in tables], self._bounds, self._order)
        identity = "\0".join(f"{part}\0{table.content_hash}" for part, table in parts.items()) + f"\0{merge}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        super().__init__(pa.table({}), captions, store, name, digest, _sums(counts))

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One column of the pictures; made on the first call, 4 bytes per picture for numbers such as `group`."""
        key = ("pictures", name)
        if key not in self._arrays:
            self._arrays[key] = self._made(name)
        return self._arrays[key]

    def has(self, name: str) -> bool:
        return name in self._fields.names

    def identity(self, row: int) -> str:
        outer = int(row if self._order is None else self._order[row])
        number = int(np.searchsorted(self._bounds, outer, side="right")) - 1
        part, table = list(self.parts.items())[number]
        return f"{part}/{table.identity(outer - int(self._bounds[number]))}"

    def _made(self, name: str) -> np.ndarray[Any, Any]:
        if name == "group":
            return np.repeat(np.arange(self.num_groups, dtype=np.int32), self.counts)
        if name not in self._fields.names:
            raise KeyError(name)
        kind = self._fields.field(name).type
        pieces = [self._column_of(number, name, None).cast(kind) for number in range(len(self.parts))]
        values = as_numpy(pa.chunked_array([c for p in pieces for c in _chunks(p)], kind))
        return values if self._order is None else values[self._order]

    def _column_of(self, number: int, name: str, rows: np.ndarray[Any, Any] | None) -> Ids:
        """One column of some rows of a part (all by default), as it is in the union."""
        part, table = list(self.parts.items())[number]
        length = len(table) if rows is None else len(rows)
        if name == "part":
            return pa.array(np.full(length, number, np.int16))
        fields = picture_fields(table).names
        if name == "family":
            return pa.array(self._families(number, rows))
        if name not in fields:
            return pa.array(np.full(length, -1, np.int32))
        column = picture_column(table, name, rows)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return pc.binary_join_element_wise(part, column, "/") if name == "id" else column

    def _families(self, number: int, rows: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
        """Numbers that no other part has; pictures of a part without families are each their own."""
        table = list(self.parts.values())[number]
        starts = _sums([_family_count(part) for part in self.parts.values()])
        if table.has("family"):
            families = table.column("family")
            own = families - min(0, int(families.min(initial=0)))
        else:
            own = np.arange(len(table))
        return (int(starts[number]) + (own if rows is None else own[rows])).astype(np.int32)

    def _take(self, rows: np.ndarray[Any, Any]) -> pa.Table:
        outer = rows if self._order is None else self._order[rows]
        number = np.searchsorted(self._bounds, outer, side="right") - 1
        pieces = []
        for part in range(len(self.parts)):
            inner = outer[number == part] - self._bounds[part]
            columns = {
                field.name: pa.array(np.zeros(len(inner), np.int32))
                if field.name == "group"
                else self._column_of(part, field.name, inner).cast(field.type)
                for field in self._fields
            }
            pieces.append(pa.table(columns))
        taken = pa.concat_tables(pieces)
        places = np.argsort(np.argsort(number, kind="stable"), kind="stable")
        taken = taken.take(pa.array(places)).cast(self._fields).combine_chunks()
        group = pa.array(self._groups_of(rows).astype(np.int32))
        return taken.set_column(self._fields.names.index("group"), self._fields.field("group"), group)

    def _groups_of(self, rows: int | np.ndarray[Any, Any]) -> Any:
        return np.searchsorted(self._first, rows, side="right") - 1


def _chunks(column: Ids) -> list[pa.Array]:
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def _sums(counts: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _family_count(table: Table) -> int:
    if not table.has("family"):
        return len(table)
    families = table.column("family")
    return int(families.max(initial=-1)) - min(0, int(families.min(initial=0))) + 1


def _common_fields(schemas: Sequence[pa.Schema], names: Sequence[str], labels: bool) -> pa.Schema:
    """The pictures' fields of the union."""
    part = pa.field("part", pa.int16(), metadata={"names": json.dumps(list(names))})
    fields = [pa.field("id", pa.string()), pa.field("group", pa.int32()), part]
    wanted = {"label": labels, "family": True}
    fields += [pa.field(name, pa.int32()) for name in _FILLED if wanted[name] and any(name in s.names for s in schemas)]
    taken = {*_COMPUTED, *_FILLED, *PLACE}
    return pa.schema([*fields, *(field for field in _shared_fields(_widened(schemas)) if field.name not in taken)])


def _shared_fields(schemas: Sequence[pa.Schema]) -> list[pa.Field]:
    """Fields that all have in one type, without metadata."""
    first, *others = schemas
    return [
        pa.field(field.name, field.type)
        for field in first
        if all(field.name in other.names and other.field(field.name).type == field.type for other in others)
    ]


def _widened(schemas: Sequence[pa.Schema]) -> list[pa.Schema]:
    """The schemas with plain values, and with long texts where one of them has long texts of that name."""
    plain = [plain_schema(schema) for schema in schemas]
    long = {field.name for schema in plain for field in schema if pa.types.is_large_string(field.type)}

    def widen(field: pa.Field) -> pa.Field:
        return field.with_type(pa.large_string()) if field.name in long and pa.types.is_string(field.type) else field

    return [pa.schema([widen(field) for field in schema]) for schema in plain]


def _joined_captions(tables: Sequence[Table]) -> pa.Table:
    """The captions of all tables, in order; columns that one of them lacks are dropped, `texts` filled."""
    captions = [table.captions for table in tables]
    several = any("texts" in part.column_names for part in captions)
    wide = _widened([part.schema for part in captions])
    captions = [part.cast(schema) for part, schema in zip(captions, wide, strict=True)]
    names = ["id", "text", *(f.name for f in _shared_fields(wide) if f.name not in ("id", "text", "texts", "first"))]
    pieces = [part.select(names).cast(pa.schema([pa.field(name, part.schema.field(name).type) for name in names]))
              for part in captions]  # fmt: skip
    if several:
        kind = next(part.schema.field("texts").type for part in captions if "texts" in part.column_names)
        filled = [_texts(part, kind) for part in captions]
        pieces = [piece.append_column("texts", column) for piece, column in zip(pieces, filled, strict=True)]
    return pa.concat_tables(pieces)


def _with_type(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    number = table.column_names.index(name)
    return table.set_column(number, name, table[name].cast(kind))


def _texts(captions: pa.Table, kind: pa.DataType) -> Ids:
    """The column `texts`; empty lists, which stand for the one text, where there is none."""
    if "texts" in captions.column_names:
        return captions["texts"].cast(kind)
    offsets = pa.array(np.zeros(len(captions) + 1, np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array([], pa.string())).cast(kind)


def _merged(
    captions: pa.Table, counts: np.ndarray[Any, Any]
) -> tuple[pa.Table, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Captions of equal text made one: the captions, their numbers of pictures, and the order of the rows."""
    if captions["text"].nbytes > _MOST_TEXT:
        captions = _with_type(captions, "text", pa.large_string())
    codes = as_numpy(captions["text"].combine_chunks().dictionary_encode().indices).astype(np.int64)
    empty = as_numpy(pc.equal(pc.binary_length(captions["text"]), 0))
    codes[empty] = len(codes) + np.flatnonzero(empty)
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    appearance = np.argsort(first)  # captions in the order of their first occurrence
    rank = np.empty(len(first), np.int64)
    rank[appearance] = np.arange(len(first))
    group = rank[group]
    order = np.argsort(np.repeat(group, counts), kind="stable")
    joined = np.bincount(group, weights=counts, minlength=len(first)).astype(np.int64)
    return captions.take(pa.array(first[appearance])), joined, order
