"""One shard of a prepared set: a fixed range of a table's rows, written by whichever process takes it."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset, get_worker_info

from lgrep.data.columns import plain_schema
from lgrep.data.failures import InHand
from lgrep.data.notices import reason_of, shown
from lgrep.data.pictures import PictureError
from lgrep.data.preparing.encoding import Encoding, suffix_of
from lgrep.data.shards import EPOCH
from lgrep.data.table import PLACE, Table

DIGEST = "digest"  # SHA-256 of the stored bytes, for the content hash
_SLOTS = 256  # processes whose progress is counted apart
_SKIPPED = b"skipped"


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard.

    Attributes:
        number: of the shard.
        rows: pictures of its range.
        skipped: of them, those left out.
        error: why it could not be written; None when it was.
    """

    number: int
    rows: int
    skipped: int = 0
    error: OSError | None = None


class Shards(Dataset[ShardResult]):
    """Writes shard `number` when item `number` is asked for.

    Every file appears whole or not at all; a shard is finished as soon as its rows are there. What it holds depends on
    the table and the settings alone.

    Args:
        table: the pictures.
        encoding: what is stored of each.
        folder: of the set.
        work: folder for unfinished files and the rows of finished shards, in the same file system.
        shard_rows: rows of a shard.
    """

    def __init__(self, table: Table, encoding: Encoding, folder: Path, work: Path, shard_rows: int) -> None:
        self.table = table
        self.encoding = encoding
        self.folder = folder
        self.work = work
        self.shard_rows = shard_rows
        self.in_hand = InHand()
        self.done = torch.zeros(_SLOTS, dtype=torch.long).share_memory_()  # type: ignore[no-untyped-call]
        self.stop = torch.zeros(1, dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]
        self._parent = os.getpid()

    def __len__(self) -> int:
        return -(-len(self.table) // self.shard_rows)

    def name(self, number: int) -> str:
        """File of a shard."""
        return f"shard-{number:05d}.zip"

    def rows_file(self, number: int) -> Path:
        """The columns of the pictures of a shard; there as soon as the shard is finished."""
        return self.work / f"rows-{number:05d}.arrow"

    def finished(self, number: int) -> ShardResult | None:
        """The result of a shard that was written before."""
        if not (self.folder / self.name(number)).is_file() or not self.rows_file(number).is_file():
            return None
        return ShardResult(number, len(self._range(number)), len(skipped_lines(self.rows_file(number))))

    def __getitem__(self, number: int) -> ShardResult:
        try:
            return self._write(number)
        except OSError as error:  # a loading process would lose its errno on the way
            return ShardResult(number, len(self._range(number)), error=error)

    def _range(self, number: int) -> range:
        return range(number * self.shard_rows, min((number + 1) * self.shard_rows, len(self.table)))

    def _write(self, number: int) -> ShardResult:
        rows = self._range(number)
        kept, skipped = [], []
        places: dict[str, list[Any]] = {"offset": [], "size": [], DIGEST: []}
        with (
            written_whole(self.folder / self.name(number), self.work) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        ):
            for row in rows:
                self._answer()
                data, reason = self._encoded(row)
                if data is None:
                    skipped.append(self._line(row, reason))
                    continue
                archive.writestr(zipfile.ZipInfo(f"{row:010d}.{suffix_of(data)}", EPOCH), data)
                places["offset"].append(archive.fp.tell() - len(data))  # type: ignore[union-attr]
                places["size"].append(len(data))
                places[DIGEST].append(hashlib.sha256(data).digest())
                kept.append(row)
        self._write_rows(number, np.asarray(kept, np.int64), places, skipped)
        return ShardResult(number, len(rows), len(skipped))

    def _encoded(self, row: int) -> tuple[bytes | None, str]:
        """What is stored of a picture, or None and why it is left out."""
        self.in_hand.take(row)
        worker = get_worker_info()
        self.done[0 if worker is None else worker.id % _SLOTS] += 1
        try:
            return self.encoding(self.table.read(row)), ""
        except (PictureError, OSError, ValueError) as error:
            return None, reason_of(error)

    def _line(self, row: int, reason: str) -> str:
        line = {
            "row": row,
            "picture": shown(self.table.identity(row)),
            "where": shown(self.table.store.locate(row)),
            "reason": shown(reason),
        }
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _write_rows(
        self, number: int, rows: np.ndarray[Any, Any], places: dict[str, list[Any]], skipped: list[str]
    ) -> None:
        table = self.table._take(rows)
        table = table.drop_columns([name for name in PLACE if name in table.column_names])
        table = table.cast(plain_schema(table.schema))
        for name, values, kind in (
            ("shard", [number] * len(rows), pa.int32()),
            ("offset", places["offset"], pa.int64()),
            ("size", places["size"], pa.int32()),
            (DIGEST, places[DIGEST], pa.binary(32)),
        ):
            table = table.append_column(name, pa.array(values, kind))
        table = table.replace_schema_metadata({_SKIPPED: "".join(skipped).encode()}).combine_chunks()
        with (
            written_whole(self.rows_file(number), self.work) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)

    def _answer(self) -> None:
        """End when the first process ended, or asks for it."""
        if get_worker_info() is not None and (os.getppid() != self._parent or bool(self.stop)):
            raise KeyboardInterrupt  # ends a loading process without a word


def skipped_lines(rows_file: Path) -> list[str]:
    """Lines of `skipped.jsonl` about the pictures left out of a shard."""
    with pa.memory_map(str(rows_file), "r") as source:
        text = (pa.ipc.open_file(source).schema.metadata or {}).get(_SKIPPED, b"").decode()
    return [line + "\n" for line in text.split("\n") if line]


@contextmanager
def written_whole(path: Path, work: Path) -> Iterator[Path]:
    """A file to write to that takes its place when all of it is on the disk, and disappears on an error."""
    partial = work / f"{path.name}.partial-{os.getpid()}"
    try:
        yield partial
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
