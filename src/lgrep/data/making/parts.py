"""From a long text file to a Parquet table, part by part, so that an interrupted job goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from lgrep.data.notices import reason_of, shown
from lgrep.data.reading_bar import reading_bar
from lgrep.errors import DataError

PART = 2**26  # bytes of text in a part
_LONGEST = 2**24  # bytes of a line; longer ones are damage
_ABOUT = b"lgrep.part"


@dataclass(frozen=True)
class Passed:
    """A line that gives no row; those of a wrong line count as left out.

    Attributes:
        reason: why.
        wrong: whether the line is damaged, or only not wanted.
    """

    reason: str
    wrong: bool = True


Parse = Callable[[bytes, int], "Sequence[Any] | Passed"]


def table_from_lines(
    text: Path, out: Path, schema: pa.Schema, parse: Parse, settings: Mapping[str, Any], setting: str
) -> str:
    """Write a row for every line that `parse` makes one of, in order.

    Finished parts lie in `OUT.parts` until the table is whole; the same call goes on with them, with the same result.

    Args:
        text: lines end with a line feed, alone or after a carriage return.
        out: Parquet file to write.
        schema: of its columns.
        parse: (line, its number from 0) -> values of the columns, or why there is no row.
        settings: all that the result depends on besides `text` (plain JSON values).
        setting: override that names `text`, for messages.

    Returns:
        A sentence that counts the rows and what was passed over.

    Raises:
        DataError: `text` cannot be read, nothing can be made of it, or the disk is full.
    """
    parts = out.with_name(out.name + ".parts")
    try:
        size = text.stat().st_size
        state = {"size": size, "modified": text.stat().st_mtime_ns, "schema": str(schema), "part": PART, **settings}
        _begin(parts, state)
        passed: Counter[str] = Counter()
        rows = 0
        files: list[Path] = []
        with text.open("rb") as lines, reading_bar(f"reading {shown(text.name)}", size) as advance:
            start = number = 0
            while start < size:
                file = parts / f"{len(files):05d}.parquet"
                about = _finished(file)
                if about is None:
                    about = _write_part(file, lines, start, number, schema, parse)
                advance(about["end"] - start)
                start, number = about["end"], about["number"]
                rows += about["rows"]
                passed.update(about["passed"])
                files.append(file)
        if not rows:
            raise DataError(f"{setting}={shown(text)}: none of its {number:,} lines gives a row. {_counted(passed)}")
        _join(files, out, schema)
        shutil.rmtree(parts)
    except OSError as error:
        raise DataError(
            f"making {shown(out)} from {setting}={shown(text)} stopped ({reason_of(error)}). Finished parts stay in "
            f"{shown(parts)}: make space, or mend the path, and type the same command again"
        ) from error
    return f"{rows:,} rows of {number:,} lines in {shown(out)}. {_counted(passed)}"


def _begin(parts: Path, state: dict[str, Any]) -> None:
    """An empty folder for the parts, or the one of the same job."""
    about = parts / "job.json"
    wanted = json.dumps(state, sort_keys=True)
    if about.is_file() and about.read_text(encoding="utf-8") == wanted:
        return
    if parts.exists():
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    about.write_text(wanted, encoding="utf-8")


def _finished(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        about: dict[str, Any] = json.loads(pq.read_schema(file).metadata[_ABOUT])
        return about
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _write_part(
    file: Path, lines: BinaryIO, start: int, number: int, schema: pa.Schema, parse: Parse
) -> dict[str, Any]:
    lines.seek(start)
    passed: Counter[str] = Counter()
    rows: list[Sequence[Any]] = []
    end = start
    for line in _lines(lines):
        found = parse(line.rstrip(b"\r\n"), number) if len(line) < _LONGEST else Passed("a line without an end")
        number += 1
        end += len(line)
        if isinstance(found, Passed):
            passed[("left out: " if found.wrong else "") + found.reason] += 1
        else:
            rows.append(found)
        if end - start >= PART:
            break
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
    about = {"end": end, "number": number, "rows": len(rows), "passed": passed}
    marked = schema.with_metadata({_ABOUT: json.dumps(about)})
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    partial = file.with_suffix(".partial")
    pq.write_table(pa.Table.from_arrays(arrays, schema=marked), partial, compression="zstd")
    os.replace(partial, file)
    return about


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST):
        yield line


def _join(files: Sequence[Path], out: Path, schema: pa.Schema) -> None:
    partial = out.with_name(out.name + ".partial")
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file).replace_schema_metadata(None))
    os.replace(partial, out)


def _counted(passed: Counter[str]) -> str:
    listed = [f"{count:,} {reason}" for reason, count in sorted(passed.items(), key=lambda item: (-item[1], item[0]))]
    return ("Passed over: " + ", ".join(listed)) if listed else "No line was passed over"
