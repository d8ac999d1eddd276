"""Writing a picture set in the project's on-disk format (`lgrep.data.table` describes it)."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lgrep.data.arrow_files import as_numpy, write_arrow
from lgrep.data.notices import reason_of
from lgrep.data.table import FORMAT, open_set
from lgrep.errors import DataError

EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed member date, so that equal pictures give equal shards
FILES = ("pictures.arrow", "captions.arrow")
_BATCH = 2**16  # rows


def write_set(
    folder: str | Path,
    name: str,
    pictures: Iterable[tuple[dict[str, Any], bytes]],
    captions: Sequence[dict[str, Any]] | pa.Table,
    picture_schema: pa.Schema,
    caption_schema: pa.Schema,
    shard_bytes: int = 256 * 2**20,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a set; the folder becomes valid only with its last file (`set.json`).

    Pictures pass through one at a time; what stays in memory is their columns.

    Args:
        folder: where to write; made if missing.
        pictures: (columns, encoded bytes) ordered by the column `group`; must have `id` (unique; also the
            member's name in the shard) and `group`.
        captions: one dict per caption (or a table of them), in the order that `group` counts; must have `id` and
            `text`.
        picture_schema, caption_schema: Arrow schemas of those dicts; `shard`, `offset`, `size` and `first` are added.
        shard_bytes: a new shard starts after this many bytes.
        extra: plain JSON data kept in `set.json` (licences, credits, source).

    Returns:
        The folder.

    Raises:
        DataError: a repeated id, or pictures not ordered by captions.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in [folder / "set.json", *folder.glob("shard-*")]:
        old.unlink(missing_ok=True)
    digest = hashlib.sha256()
    shards: list[str] = []
    located = pa.schema(
        [*picture_schema, pa.field("shard", pa.int32()), pa.field("offset", pa.int64()), pa.field("size", pa.int32())]
    )
    rows = _Rows(located, len(captions))
    for shard, members in enumerate(_batches(pictures, shard_bytes)):
        shards.append(f"shard-{shard:05d}.zip")
        with zipfile.ZipFile(folder / shards[-1], "w", zipfile.ZIP_STORED) as archive:
            for columns, data in members:
                member = zipfile.ZipInfo(str(columns["id"]), EPOCH)
                archive.writestr(member, data)
                start = archive.fp.tell() - len(data)  # type: ignore[union-attr]
                rows.add({**columns, "shard": shard, "offset": start, "size": len(data)})
                digest.update(hashlib.sha256(data).digest())
    table = rows.table()
    if isinstance(captions, pa.Table):
        captions = captions.select(caption_schema.names).cast(caption_schema)
    else:
        captions = pa.Table.from_pylist(list(captions), schema=caption_schema)
    write_tables(folder, table, captions)
    for name_of_file in FILES:
        _digest_file(digest, folder / name_of_file)
    about = {
        "format": FORMAT,
        "name": name,
        "pictures": len(table),
        "captions": len(captions),
        "shards": shards,
        "content_hash": digest.hexdigest()[:16],
        **(extra or {}),
    }
    partial = folder / "set.json.partial"
    partial.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, folder / "set.json")
    return folder


def write_tables(folder: Path, pictures: pa.Table, captions: pa.Table) -> None:
    """Write `pictures.arrow` and `captions.arrow`; the column `first` of the captions follows from `group`."""
    first = np.searchsorted(as_numpy(pictures["group"]), np.arange(len(captions)))
    captions = captions.drop_columns(["first"]) if "first" in captions.column_names else captions
    for file, table in zip(
        FILES, (pictures, captions.append_column("first", pa.array(first, pa.int64()))), strict=True
    ):
        write_arrow(folder / file, table)


def verify_set(folder: str | Path) -> None:
    """Read every byte of a set and compare it with the content hash of `set.json`.

    Raises:
        DataError: the set cannot be opened or read, ids repeat, or the content is not what was written.
    """
    folder = Path(folder)
    table = open_set(folder)
    repeated = len(table) - pc.count_distinct(table.pictures["id"]).as_py()
    if repeated:
        raise DataError(
            f"{folder}: {repeated:,} of {len(table):,} pictures repeat the id of another; ids must be unique"
        )
    digest = hashlib.sha256()
    for row in range(len(table)):
        try:
            digest.update(hashlib.sha256(table.read(row)).digest())
        except (OSError, ValueError) as error:
            raise DataError(
                f"{table.store.locate(row)} cannot be read ({reason_of(error)}). Copy the set again"
            ) from error
    for name in FILES:
        _digest_file(digest, folder / name)
    if digest.hexdigest()[:16] != table.content_hash:
        raise DataError(
            f"{folder}: the content has hash {digest.hexdigest()[:16]}, set.json says {table.content_hash}: a file was "
            "changed or damaged. Copy the set again, or type data.verify=false to use it as it is"
        )


class _Rows:
    """Rows of a table on their way into Arrow batches, checked.

    Args:
        schema: of the rows.
        captions: number of captions.
    """

    def __init__(self, schema: pa.Schema, captions: int) -> None:
        self.schema, self.captions = schema, captions
        self.last = 0
        self._pending: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, row: dict[str, Any]) -> None:
        """Append a row.

        Raises:
            DataError: it is not ordered by captions.
        """
        if not self.last <= row["group"] < self.captions:
            raise DataError(
                f"picture {row['id']!r} has group {row['group']} after {self.last}; groups must ascend and lie in "
                f"0..{self.captions - 1}"
            )
        self.last = row["group"]
        self._pending.append(row)
        if len(self._pending) == _BATCH:
            self._flush()

    def table(self) -> pa.Table:
        """All rows.

        Raises:
            DataError: an id occurs twice.
        """
        self._flush()
        table = pa.Table.from_batches(self._batches, self.schema)
        if pc.count_distinct(table["id"]).as_py() < len(table):
            counted = pc.value_counts(table["id"])
            often = counted.filter(pc.greater(counted.field("counts"), 1))
            raise DataError(f"the picture id {often[0]['values'].as_py()!r} occurs twice; ids must be unique")
        return table

    def _flush(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._pending, schema=self.schema))
        self._pending = []


def _batches(
    pictures: Iterable[tuple[dict[str, Any], bytes]], limit: int
) -> Iterator[list[tuple[dict[str, Any], bytes]]]:
    batch: list[tuple[dict[str, Any], bytes]] = []
    held = 0
    for item in pictures:
        batch.append(item)
        held += len(item[1])
        if held >= limit:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _digest_file(digest: Any, path: Path) -> None:
    with path.open("rb") as handle:
        while block := handle.read(2**24):
            digest.update(block)
