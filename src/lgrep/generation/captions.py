"""The captions of a generated set: from any table, or from a file."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.data.arrow_files import as_numpy, map_arrow
from lgrep.data.caption_text import NoCaption, clean_caption, decode_text
from lgrep.data.columns import plain_schema
from lgrep.data.filters import keyed_hash
from lgrep.data.metadata import records
from lgrep.data.notices import reason_of, shown
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError, did_you_mean

COLUMNS = ("caption", "text", "prompt", "captions", "title")  # names that a caption column usually has
_NOT_KEPT = ("first", "texts")  # of the real pictures
_DIGITS = 16
_FORMATS = ".txt, .csv, .tsv, .arrow, .parquet or .json"


@dataclass
class Captions:
    """Captions to draw, each once.

    Attributes:
        table: columns `id` (unique), `text`, and what else is known of a caption.
        name: of their set.
        skipped: (caption, reason) of those that cannot be drawn.
        merged: captions of a file that repeat an earlier one.
    """

    table: pa.Table
    name: str
    skipped: list[tuple[str, str]] = field(default_factory=list)
    merged: int = 0

    def __len__(self) -> int:
        return len(self.table)

    def digest(self) -> str:
        """16 hexadecimal digits over ids and texts."""
        found = hashlib.sha256()
        for name in ("id", "text"):
            column = self.table[name].cast(pa.large_string())
            found.update(f"{name} {len(column)}\n".encode())
            for chunk in column.chunks:
                for value in chunk.to_pylist():
                    data = value.encode("utf-8")
                    found.update(len(data).to_bytes(4, "little") + data)
        return found.hexdigest()[:_DIGITS]

    def limited(self, limit: int | None, seed: int) -> Captions:
        """A random part, order kept: those whose ids have the smallest keyed hashes, so that parts are nested."""
        if limit is None or limit >= len(self):
            return self
        hashes = keyed_hash(self.table["id"], seed)
        chosen = np.sort(np.argsort(hashes, kind="stable")[:limit])
        return Captions(self.table.take(pa.array(chosen)).combine_chunks(), self.name, self.skipped, self.merged)


def captions_of(table: Table) -> Captions:
    """The captions of a set, with their columns; a class that all pictures of a caption share comes along.

    Raises:
        DataError: none of them has a text.
    """
    found = table.captions.drop_columns([name for name in _NOT_KEPT if name in table.captions.column_names])
    found = found.cast(plain_schema(found.schema).remove_metadata())
    if table.has("label") and "label" not in found.column_names:
        found = found.append_column("label", pa.array(_shared_labels(table), pa.int32()))
    return _usable(found, table.name)


def captions_in(path: str, column: str | None = None) -> Captions:
    """The captions of a file: one per line (.txt), or a column of a table.

    Captions are told apart by their texts; a column `id` with unique texts names them, else a hash of the text does.

    Args:
        path: the file.
        column: that holds the captions; None: the first of `COLUMNS`, or, in a CSV file without a header, the last.

    Raises:
        DataError: not readable, no such column, or no caption.
        ConfigError: another kind of file.
    """
    file = Path(path).expanduser()
    kind = file.suffix.lower()
    try:
        if kind == ".txt":
            table = pa.table({"text": pa.array(_lines(file.read_bytes(), path), pa.string())})
        elif kind in (".csv", ".tsv"):
            table = _csv_table(file, path, column)
        elif kind in (".arrow", ".feather"):
            if not file.is_file():
                raise FileNotFoundError(2, "No such file or directory")
            table = map_arrow(file)
        elif kind in (".parquet", ".json"):
            rows = [
                row if isinstance(row, dict) else {"text": row} for batch in records(file, "captions") for row in batch
            ]
            table = pa.Table.from_pylist(rows) if rows else pa.table({"text": pa.array([], pa.string())})
        else:
            raise ConfigError(f"captions={shown(path)}: it must be {_FORMATS}")
    except OSError as error:
        raise DataError(f"captions={shown(path)} cannot be read ({reason_of(error)}). Type captions=FILE") from error
    except (pa.ArrowException, NoCaption) as error:
        raise DataError(f"captions={shown(path)} cannot be read ({str(error).splitlines()[0]})") from error
    table, merged = _merged(_named(table, path, column))
    return _usable(table, file.stem, merged)


def _usable(table: pa.Table, name: str, merged: int = 0) -> Captions:
    """Captions with a visible text."""
    texts = [clean_caption(text or "") for text in _texts(table["text"])]
    kept = np.array([bool(text) for text in texts], bool)
    empty = table["id"].filter(pa.array(~kept)).to_pylist()
    position = table.column_names.index("text")
    table = table.set_column(position, "text", pa.array(texts, pa.large_string() if _long(texts) else pa.string()))
    table = table.filter(pa.array(kept)).combine_chunks()
    if not len(table):
        raise DataError(
            f"{name} has no caption to draw ({len(empty):,} are empty). Choose another data=..., or type captions=FILE with "
            f"{_FORMATS}"
        )
    return Captions(table, name, [(str(caption), "empty caption") for caption in empty], merged)


def _merged(table: pa.Table) -> tuple[pa.Table, int]:
    """Each text once, and how many repeat an earlier one; ids are checked, or made of the texts."""
    texts = [clean_caption(text or "") for text in table["text"].to_pylist()]
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text:
            first.setdefault(text, row)
    empty = [row for row, text in enumerate(texts) if not text]
    merged = len(texts) - len(empty) - len(first)
    rows = sorted([*first.values(), *empty])
    own = table["id"].cast(pa.string()).to_pylist() if "id" in table.column_names else None
    table = table.take(pa.array(rows, pa.int64()))
    if own is not None and None not in own and len(set(own)) == len(own):
        ids = [own[row] for row in rows]
    else:
        ids = [
            hashlib.sha256(texts[row].encode()).hexdigest()[:_DIGITS] if texts[row] else f"row {row + 1}"
            for row in rows
        ]
    others = [name for name in table.column_names if name not in ("id", "text")]
    columns = {"id": pa.array(ids, pa.string()), "text": pa.array([texts[row] for row in rows], pa.string())}
    return pa.table(columns | {name: table[name].combine_chunks() for name in others}), merged


def _named(table: pa.Table, path: str, column: str | None) -> pa.Table:
    """The table with its captions in the column `text`, and without columns that mean something else in a set."""
    found = column or next((name for name in COLUMNS if name in table.column_names), None)
    if found is None or found not in table.column_names:
        hint = f"; {did_you_mean(found or 'caption', table.column_names)}"
        raise DataError(
            f"captions={shown(path)} has no column {shown(found or COLUMNS[0])}{hint} Type caption_column=NAME"
        )
    kind = table.schema.field(found).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        firsts = [value[0] if value else "" for value in table[found].to_pylist()]
        return pa.table({"text": pa.array(firsts, pa.string())})
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
        raise DataError(
            f"captions={shown(path)}: the column {shown(found)} holds {kind}, not text. Type caption_column=NAME"
        )
    kept = [name for name in table.column_names if name in ("id", "label", "topic") and name != found]
    return pa.table({name: table[name] for name in kept} | {"text": table[found].cast(pa.string())})


def _csv_table(file: Path, path: str, column: str | None) -> pa.Table:
    lines = _lines(file.read_bytes(), path, keep_ends=True)
    rows = [row for row in _parsed(lines, "\t" if file.suffix.lower() == ".tsv" else ",", path) if row]
    if not rows:
        raise DataError(f"captions={shown(path)} is empty")
    names = [cell.strip().lstrip("\ufeff") for cell in rows[0]]
    lower = [name.lower() for name in names]
    known = [names.index(column)] if column in names else [lower.index(name) for name in COLUMNS if name in lower]
    if column is not None and column not in names:
        raise DataError(f"captions={shown(path)} has no column {column}; {did_you_mean(column, names)}")
    place = known[0] if known else min(1, len(names) - 1)  # without a header: a caption, or path,caption
    body = rows[1:] if known else rows
    columns = {column or "caption": [row[place] if place < len(row) else "" for row in body]}
    if known and "id" in lower:
        spot = lower.index("id")
        columns["id"] = [row[spot] if spot < len(row) else "" for row in body]
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _parsed(lines: Iterable[str], separator: str, path: str) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=separator)
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"captions={shown(path)}: line {reader.line_num}: {error}") from error


def _lines(data: bytes, path: str, keep_ends: bool = False) -> list[str]:
    text = decode_text(data).removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    return [line + "\n" for line in lines] if keep_ends else lines


def _shared_labels(table: Table) -> np.ndarray[Any, Any]:
    """Class of every caption; -1 where its pictures differ."""
    labels, starts = table.column("label"), as_numpy(pa.array(np.cumsum(table.counts) - table.counts))
    least, most = np.minimum.reduceat(labels, starts), np.maximum.reduceat(labels, starts)
    return np.where(least == most, least, -1).astype(np.int32)


def _texts(column: pa.ChunkedArray) -> list[str]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # a damaged byte
        binary = column.cast(pa.large_binary()).to_pylist()
        return [(value or b"").decode("utf-8", "replace") for value in binary]


def _long(texts: Sequence[str]) -> bool:
    return sum(map(len, texts)) > 2**29
