"""Rows of a table that fulfil conditions, and random subsets that contain each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lgrep.data.columns import text_buffers
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError, did_you_mean

CAPTION = "caption"  # stands for the text of the caption
_LIMITS = ("min", "max", "matches")
_BLOCK = 2**16  # rows whose texts are hashed, or whose computed columns are made, at a time

Ids: TypeAlias = "pa.ChunkedArray | pa.Array"


def check_where(where: Mapping[str, Any]) -> None:
    """Refuse conditions that cannot be read.

    Raises:
        ConfigError: says which forms there are.
    """
    for name, wanted in where.items():
        place = f"data.where.{name}"
        if isinstance(wanted, Mapping):
            unknown = [key for key in wanted if key not in _LIMITS]
            if unknown or not wanted:
                raise ConfigError(
                    f"{place}: {did_you_mean(str(unknown[0]), _LIMITS) if unknown else 'it is empty;'} "
                    f"Type {place}.min=N, {place}.max=N or '{place}.matches=\"REGEX\"'"
                )
            _check_pattern(place, wanted.get("matches"))
        elif wanted is None or (isinstance(wanted, list | tuple) and not wanted):
            raise ConfigError(
                f"{place}={'null' if wanted is None else '[]'} keeps nothing. Type {place}=VALUE, or drop it"
            )


def selected_rows(table: Table, where: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Rows that fulfil every condition, ascending, int64.

    Args:
        table: the pictures.
        where: column -> a value, a list of values, or a mapping with any of `min`, `max` (both inclusive) and
            `matches` (a regular expression that is searched for). Columns are those of the pictures, then those of
            their captions; `caption` is the caption's text. A missing value fulfils nothing.

    Raises:
        ConfigError: a condition that cannot be read, or does not fit the type of its column.
        DataError: no such column (the message lists them), or nothing is left (it counts what each condition keeps).

    Example:
        >>> from lgrep.data.emoji import open_emoji
        >>> len(selected_rows(open_emoji(), {"designer": ["noto", "fxemoji"], "caption": {"matches": "^red "}}))
        16
    """
    check_where(where)
    kept = np.ones(len(table), dtype=bool)
    counts = {}
    for name, wanted in where.items():
        fulfilled = _mask(table, name, wanted)
        counts[name] = int(fulfilled.sum())
        kept &= fulfilled
    if not kept.any() and len(table):
        each = ", ".join(f"data.where.{name} keeps {count:,}" for name, count in counts.items())
        raise DataError(
            f"{table.name}: of {len(table):,} pictures {each}{', but none fulfils all' * (len(counts) > 1)}. "
            "Change data.where, or drop it"
        )
    return np.flatnonzero(kept)


def limited_rows(
    table: Table, rows: np.ndarray[Any, Any], limit: int, seed: int, unit: Literal["picture", "caption"]
) -> np.ndarray[Any, Any]:
    """A random subset of `rows`, ascending: those whose ids have the smallest keyed hashes.

    A smaller limit gives a part of a larger one's, and pictures that join the set move no other one out of it
    except by taking its place.

    Args:
        table: the pictures.
        rows: to choose from, ascending.
        limit: how many pictures, or captions with all their `rows`.
        seed: another one gives another subset.
        unit: what `limit` counts.
    """
    if unit == "picture":
        if limit >= len(rows):
            return rows
        return np.sort(rows[_smallest(keyed_hash(picture_column(table, "id", rows), seed), limit)])
    group = caption_rows(table)[rows]
    found = np.unique(group)
    hashes = keyed_hash(table.captions["id"].take(pa.array(found)), seed)
    return rows[np.isin(group, found[_smallest(hashes, min(limit, len(found)))])]


def keyed_hash(ids: Ids, seed: int) -> np.ndarray[Any, Any]:
    """A 64-bit hash of every text that depends on the text and the seed alone.

    A polynomial of the bytes modulo 2^64, mixed as in SplitMix64 (Steele et al. 2014).

    >>> keyed_hash(pa.array(["a", "b", "a"]), 0).argsort(kind="stable").tolist() in ([0, 2, 1], [1, 0, 2])
    True
    """
    blocks = [_polynomial(block) for block in _blocks(ids)]
    mixed = np.concatenate(blocks) if blocks else np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        mixed ^= np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def picture_column(table: Table, name: str, rows: np.ndarray[Any, Any] | None = None) -> Ids:
    """A column of the pictures as Arrow, computed where the table computes it; of some rows, or of all."""
    if name in table.pictures.column_names:
        column = table.pictures[name]
        return column if rows is None or len(rows) == len(table) else column.take(pa.array(rows))
    rows = np.arange(len(table)) if rows is None else rows
    made = [table._take(rows[start : start + _BLOCK])[name] for start in range(0, max(1, len(rows)), _BLOCK)]
    return pa.chunked_array([chunk for column in made for chunk in column.chunks], made[0].type)


def picture_fields(table: Table) -> pa.Schema:
    """Fields of the pictures, those that the table computes included."""
    return table._take(np.zeros(0, np.int64)).schema


def caption_rows(table: Table) -> np.ndarray[Any, Any]:
    """Row of the caption of every picture, int64."""
    return np.repeat(np.arange(table.num_groups), table.counts)


def _mask(table: Table, name: str, wanted: Any) -> np.ndarray[Any, Any]:
    """Which pictures fulfil one condition."""
    schema = picture_fields(table)
    if name in schema.names:
        wanted = _as_numbers(wanted, part_names(schema)) if name == "part" else wanted
        return _fulfils(name, picture_column(table, name), wanted)
    of_captions = [field for field in table.captions.schema if not pa.types.is_nested(field.type)]
    names = [CAPTION, *(field.name for field in of_captions if field.name not in ("id", "text"))]
    if name not in names:
        raise DataError(
            f"data.where.{name}: {table.name} has no such column; {did_you_mean(name, [*schema.names, *names])} "
            f"Pictures have {', '.join(schema.names)}; captions have {', '.join(names)}"
        )
    fulfilled = _fulfils(name, table.captions["text" if name == CAPTION else name], wanted)
    return np.repeat(fulfilled, table.counts)


def part_names(schema: pa.Schema) -> list[str]:
    """Names of the parts that the column `part` of a union counts; empty without it."""
    metadata = schema.field("part").metadata if "part" in schema.names else None
    return list(json.loads(metadata[b"names"])) if metadata and b"names" in metadata else []


def _as_numbers(wanted: Any, names: list[str]) -> Any:
    if isinstance(wanted, Mapping) or not names:
        return wanted
    values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    unknown = [value for value in values if isinstance(value, str) and value not in names]
    if unknown:
        raise DataError(f"data.where.part={unknown[0]}: there is no such part; {did_you_mean(unknown[0], names)}")
    return [names.index(value) if isinstance(value, str) else value for value in values]


def _fulfils(name: str, column: Ids, wanted: Any) -> np.ndarray[Any, Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        mask = _compare(column, wanted)
    except (pa.ArrowException, ValueError, TypeError) as error:
        shown = dict(wanted) if isinstance(wanted, Mapping) else wanted
        raise ConfigError(
            f"data.where.{name}={shown}: the column holds {column.type} ({str(error).splitlines()[0]}). "
            f"Type values of that type{', as matches needs text' * ('matches' in str(shown))}"
        ) from error
    flat = pc.fill_null(mask, False)
    return np.asarray(flat.to_numpy(zero_copy_only=False) if isinstance(flat, pa.Array) else flat.to_numpy())


def _compare(column: Ids, wanted: Any) -> Ids:
    if not isinstance(wanted, Mapping):
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        return pc.is_in(column, value_set=pa.array([_scalar(value, column.type) for value in values], column.type))
    masks = []
    if wanted.get("min") is not None:
        masks.append(pc.greater_equal(column, _bound(wanted["min"], column.type)))
    if wanted.get("max") is not None:
        masks.append(pc.less_equal(column, _bound(wanted["max"], column.type)))
    if wanted.get("matches") is not None:
        masks.append(pc.match_substring_regex(column, str(wanted["matches"])))
    result = masks[0]
    for mask in masks[1:]:
        result = pc.and_(result, mask)
    return result


def _scalar(value: Any, kind: pa.DataType) -> Any:
    """A value as the command line gave it, in the column's type."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return str(value)
    return pa.scalar(value).cast(kind).as_py()


def _bound(value: Any, kind: pa.DataType) -> Any:
    """Bounds of integers may be fractions."""
    if pa.types.is_integer(kind) and isinstance(value, float):
        return pa.scalar(value)
    return pa.scalar(_scalar(value, kind), kind)


def _check_pattern(place: str, pattern: Any) -> None:
    if pattern is None:
        return
    try:
        re.compile(str(pattern))
        pc.match_substring_regex(pa.array([""]), str(pattern))  # RE2 knows less than Python does
    except (re.error, pa.ArrowException) as error:
        raise ConfigError(
            f"{place}.matches={pattern}: no regular expression ({str(error).splitlines()[0]}). Type RE2 syntax, e.g. "
            f"'{place}.matches=\"^cats\"'"
        ) from error


def _smallest(hashes: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    return np.argsort(hashes, kind="stable")[:count]


def _blocks(ids: Ids) -> Iterator[pa.Array]:
    for chunk in ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]:
        for start in range(0, len(chunk), _BLOCK):
            yield chunk[start : start + _BLOCK]


def _polynomial(block: pa.Array) -> np.ndarray[Any, Any]:
    """Per text the sum of (byte + 1) * odd^(place + 1) modulo 2^64."""
    begin, offsets, buffer = text_buffers(block)
    starts, lengths, data = offsets[:-1] - begin, np.diff(offsets), np.frombuffer(buffer, np.uint8)
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, 0x5851F42D4C957F2D, np.uint64))
        terms = (data.astype(np.uint64) + np.uint64(1)) * powers[place]
        sums = np.add.reduceat(np.append(terms, np.uint64(0)), starts) if len(starts) else np.zeros(0, np.uint64)
    sums[lengths == 0] = 0
    return np.asarray(sums)
