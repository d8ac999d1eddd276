"""Records of a published metadata file, whatever it is written in; its content decides, not its name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lgrep.data.json_stream import json_entries
from lgrep.data.notices import reason_of, shown
from lgrep.data.restricted import read_records
from lgrep.errors import DataError

_ROWS = 2**12


def records(path: Path, setting: str = "data.metadata") -> Iterator[list[Any]]:
    """Batches of the file's records: a Parquet table, a JSON list, or a published object file.

    Args:
        path: the file.
        setting: what names it in messages.

    Raises:
        DataError: not readable, none of these, or damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise DataError(
            f"{setting}={shown(path)} cannot be read ({reason_of(error)}). Type {setting}=FILE; "
            "docs/data_formats.md says how to get or make it"
        ) from error
    if start.startswith(b"PAR1"):
        yield from _parquet(path, setting)
    elif start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        entries = (value for _, value in json_entries(path, setting))
        while batch := list(islice(entries, _ROWS)):
            yield batch
    else:
        yield from read_records(path, setting)


def _parquet(path: Path, setting: str) -> Iterator[list[Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                yield batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{setting}={shown(path)} is a damaged Parquet file ({str(error).splitlines()[0]}). Copy it again"
        ) from error
