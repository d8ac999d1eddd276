"""Captions and the relative paths of their pictures, read from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from lgrep.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_FIELD = 500 * 2**20  # bytes; the published reader's limit
_BLOCK = 2**22
_ROWS = 65536  # of a batch of the exact reader
_TEXT = pa.large_string()  # 64-bit offsets: the captions of a large set take more than 2 GB


@dataclass(frozen=True)
class CaptionRows:
    """What a caption file holds.

    Attributes:
        path: relative paths of the pictures (Arrow large_string, N rows).
        text: captions, in the same order.
        dropped: rows left out because their first column names no picture.
        first_dropped: first column of the first of them.
    """

    path: pa.ChunkedArray
    text: pa.ChunkedArray
    dropped: int
    first_dropped: str


def read_caption_csv(file: Path) -> CaptionRows:
    """Read a file of StableRep's layout (arXiv 2306.00984): column 1 is a relative path, column 2 a caption.

    Comma-separated UTF-8, with or without BOM; further columns are ignored; rows whose first column does not end in
    .png, .jpg or .jpeg are left out, which removes a header. What Python's `csv.reader` accepts is accepted.

    Raises:
        DataError: no such file, not UTF-8, a row of one column, an open quote, or no row with a picture.
    """
    try:
        try:
            batches = list(_batches_fast(file))
        except (pa.ArrowInvalid, KeyError):
            # Arrow refuses rows of different lengths, and names no lines: Python's reader takes the file or says where.
            batches = list(_batches_exact(file))
    except OSError as error:
        raise DataError(
            f"data.csv={file} cannot be read ({error.strerror or error}). Type data.csv=FILE.csv"
        ) from error
    if not batches:
        raise DataError(f"data.csv={file} is empty; its rows should read: relative/path.png,caption")
    kept, dropped, first = [], 0, ""
    for batch in batches:
        named = _names_picture(batch["path"])
        missing = len(named) - (named.true_count or 0)
        if missing and not dropped:
            first = batch["path"].filter(pc.invert(named))[0].as_py()
        dropped += missing
        kept.append(batch.filter(named) if missing else batch)
    rows = pa.Table.from_batches(kept)
    if not len(rows):
        raise DataError(
            f"data.csv={file}: column 1 of none of its {dropped} rows ends in {', '.join(SUFFIXES)} (the first: "
            f"{first[:80]!r}); rows should read: relative/path.png,caption"
        )
    return CaptionRows(rows["path"], rows["text"], dropped, first)


def _names_picture(path: pa.Array) -> Any:
    png, jpg, jpeg = (pc.ends_with(path, suffix) for suffix in SUFFIXES)
    return pc.or_(pc.or_(png, jpg), jpeg)


def _batches_fast(file: Path) -> Iterator[pa.RecordBatch]:
    """All rows through Arrow's reader: 12 million captions in seconds."""
    reader = pa_csv.open_csv(
        pa.memory_map(str(file)),
        read_options=pa_csv.ReadOptions(autogenerate_column_names=True, block_size=_BLOCK),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            include_columns=["f0", "f1"], column_types={"f0": _TEXT, "f1": _TEXT}, strings_can_be_null=False
        ),
    )
    last: dict[str, str] = {}
    with reader:
        for batch in reader:
            if len(batch):
                last = batch.slice(len(batch) - 1).to_pylist()[0]
                yield batch.rename_columns(["path", "text"])
    if any("\n" in value for value in last.values()):
        # Arrow takes a quote that is never closed for one that is closed at the end of the file.
        raise pa.ArrowInvalid("the last row has several lines")


def _batches_exact(file: Path) -> Iterator[pa.RecordBatch]:
    """All rows through Python's reader, which is several times slower and knows the line of an error."""
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            paths: list[str] = []
            texts: list[str] = []
            for path, text in _rows(handle, file):
                paths.append(path)
                texts.append(text)
                if len(paths) == _ROWS:
                    yield _batch(paths, texts)
                    paths, texts = [], []
            if paths:
                yield _batch(paths, texts)
    except UnicodeDecodeError as error:
        raise DataError(
            f"data.csv={file}: line {_first_undecodable(file)} is no UTF-8 ({error.reason}). Convert the file, e.g. "
            "iconv -f LATIN1 -t UTF-8 OLD.csv > NEW.csv, and type data.csv=NEW.csv"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _rows(handle: Iterable[str], file: Path) -> Iterator[tuple[str, str]]:
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from handle
        ended = True

    reader = csv.reader(lines())
    before = 0
    try:
        for row in reader:
            if ended:  # the reader gives a row after the last line only when it waited for a closing quote
                raise DataError(
                    f"data.csv={file}: a quote opened in line {before + 1} is never closed. "
                    'Close it (a quote inside a quoted caption is written "")'
                )
            if len(row) == 1:
                other = next((name for mark, name in (("\t", "tabs"), (";", "semicolons")) if mark in row[0]), None)
                hint = f"; it looks separated by {other}, commas are needed" if other else ""
                raise DataError(
                    f"data.csv={file}: line {reader.line_num} has one column ({row[0][:80]!r}){hint}. "
                    "Rows should read: relative/path.png,caption"
                )
            before = reader.line_num
            if row:
                yield row[0], row[1]
    except csv.Error as error:
        raise DataError(f"data.csv={file}: line {reader.line_num}: {error}") from error


def _batch(paths: list[str], texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(paths, _TEXT), pa.array(texts, _TEXT)], names=["path", "text"])


def _first_undecodable(file: Path) -> int:
    with file.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1
