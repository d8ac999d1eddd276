"""Scopes: the parts of a set within which neighbours are searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt

from lgrep.data.filters import caption_rows, keyed_hash, picture_column, picture_fields
from lgrep.data.notices import notice
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError, did_you_mean


class Scope(BaseModel):
    r"""Which units may be neighbours of each other: those that agree in every value named here; all by default.

    Attributes:
        columns: of the pictures, or of their captions, e.g. `[subreddit, year]`.
        matches: regular expression (RE2); what its groups, or the whole, match must agree, e.g.
            `^(.+)_(\d{4})_` on RedCaps' ids for subreddit and year. A text that does not match is in no scope.
        matched: the column of texts that it is searched in.
        random: as many random parts of about equal size, by the ids (a control for the size of other scopes).
        seed: of the random parts.
    """

    model_config = ConfigDict(extra="forbid")

    columns: list[str] = []
    matches: str | None = None
    matched: str = "id"
    random: PositiveInt | None = None
    seed: int = 0

    @property
    def whole(self) -> bool:
        """Whether everything may be a neighbour of everything."""
        return not self.columns and self.matches is None and self.random is None


def scope_numbers(scope: Scope, table: Table, of_captions: bool) -> NDArray[np.int64] | None:
    """For every caption (or picture) the number of its part, -1 = none; None when there is one part.

    A caption is in the part of its first picture.

    Raises:
        ConfigError: an expression that cannot be read.
        DataError: no such column.
    """
    if scope.whole:
        return None
    keys = [_numbered(_column(table, name, "columns")) for name in scope.columns]
    if scope.matches is not None:
        keys += _matched(_column(table, scope.matched, "matched"), scope.matches)
    if scope.random is not None:
        ids = table.captions["id"] if of_captions else picture_column(table, "id")
        part = (keyed_hash(ids, scope.seed) % np.uint64(scope.random)).astype(np.int64)
        keys.append(np.repeat(part, table.counts) if of_captions else part)
    combined = _combined(keys)
    return _of_captions(combined, table) if of_captions else combined


def _column(table: Table, name: str, setting: str) -> Any:
    fields = picture_fields(table).names
    if name in fields:
        return picture_column(table, name)
    if name in table.captions.column_names:
        return table.captions[name].take(pa.array(caption_rows(table)))
    known = sorted({*fields, *table.captions.column_names})
    raise DataError(f"miner.scope.{setting}={name}: {table.name} has no such column; {did_you_mean(name, known)}")


def _matched(texts: Any, pattern: str) -> list[NDArray[np.int64]]:
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    # RE2's extraction needs named groups.
    groups, named = 0, ""
    for place, letter in enumerate(pattern):
        opens = letter == "(" and pattern[place + 1 : place + 2] != "?" and (place == 0 or pattern[place - 1] != "\\")
        groups += opens
        named += f"(?P<g{groups}>" if opens else letter
    if not groups:
        named = f"(?P<g1>{pattern})"
    try:
        found = pc.extract_regex(texts, named)
    except (pa.ArrowException, TypeError) as error:
        raise ConfigError(
            f"miner.scope.matches={pattern}: {str(error).splitlines()[0]}. Type RE2 syntax on a column of texts, e.g. "
            "'miner.scope.matches=\"^(.+)_(\\d{4})_\"'"
        ) from error
    flat = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks)
    missing = flat.is_null().to_numpy(zero_copy_only=False)
    keys = [_numbered(flat.field(number)) for number in range(flat.type.num_fields)]
    return [np.where(missing, -1, key) for key in keys]


def _numbered(column: Any) -> NDArray[np.int64]:
    """A number for every value, -1 where it is missing."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = pc.dictionary_encode(column)
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    if len(chunks) > 1:
        encoded = pa.chunked_array(chunks).unify_dictionaries()
        chunks = encoded.chunks
    parts = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) for chunk in chunks]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _combined(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One number for each combination of numbers; -1 where one of them is."""
    missing = np.logical_or.reduce([key < 0 for key in keys])
    combined = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        _, combined = np.unique(combined * (int(key.max(initial=0)) + 2) + key + 1, return_inverse=True)
    return np.where(missing, -1, combined)


def _of_captions(numbers: NDArray[np.int64], table: Table) -> NDArray[np.int64]:
    filled = np.flatnonzero(table.counts)
    starts = (np.cumsum(table.counts) - table.counts)[filled]
    found = np.full(table.num_groups, -1, np.int64)
    found[filled] = numbers[starts]
    several = int((found[caption_rows(table)] != numbers).sum())
    if several:
        notice(
            f"{several:,} pictures are in another scope than the first picture of their caption, which counts. Type "
            "miner.unit=picture to mine among pictures instead"
        )
    return found
