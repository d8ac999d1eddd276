"""Writing a picture set in the project's on-disk format (`lgrep.data.table` describes it)."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lgrep.data.notices import reason_of
from lgrep.data.table import FORMAT, open_set
from lgrep.errors import DataError

EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed member date, so that equal pictures give equal shards


def write_set(
    folder: str | Path,
    name: str,
    pictures: Iterable[tuple[dict[str, Any], bytes]],
    captions: Sequence[dict[str, Any]],
    picture_schema: pa.Schema,
    caption_schema: pa.Schema,
    shard_bytes: int = 256 * 2**20,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a set; the folder becomes valid only with its last file (`set.json`).

    Args:
        folder: where to write; made if missing.
        pictures: (columns, encoded bytes) ordered by the column `group`; must have `id` (unique; also the
            member's name in the shard) and `group`.
        captions: one dict per caption, in the order that `group` counts; must have `id` and `text`.
        picture_schema, caption_schema: Arrow schemas of those dicts (`shard`, `offset`, `size` are added).
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
    rows: list[dict[str, Any]] = []
    for shard, members in enumerate(_batches(pictures, shard_bytes)):
        shards.append(f"shard-{shard:05d}.zip")
        with zipfile.ZipFile(folder / shards[-1], "w", zipfile.ZIP_STORED) as archive:
            for columns, data in members:
                member = zipfile.ZipInfo(str(columns["id"]), EPOCH)
                archive.writestr(member, data)
                start = archive.fp.tell() - len(data)  # type: ignore[union-attr]
                rows.append({**columns, "shard": shard, "offset": start, "size": len(data)})
                digest.update(hashlib.sha256(data).digest())
    _check(rows, len(captions))
    located = pa.schema(
        [*picture_schema, pa.field("shard", pa.int32()), pa.field("offset", pa.int64()), pa.field("size", pa.int32())]
    )
    _write_arrow(folder / "pictures.arrow", pa.Table.from_pylist(rows, schema=located))
    _write_arrow(folder / "captions.arrow", pa.Table.from_pylist(list(captions), schema=caption_schema))
    for table in ("pictures.arrow", "captions.arrow"):
        digest.update((folder / table).read_bytes())
    about = {
        "format": FORMAT,
        "name": name,
        "pictures": len(rows),
        "captions": len(captions),
        "shards": shards,
        "content_hash": digest.hexdigest()[:16],
        **(extra or {}),
    }
    partial = folder / "set.json.partial"
    partial.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, folder / "set.json")
    return folder


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
    for name in ("pictures.arrow", "captions.arrow"):
        digest.update((folder / name).read_bytes())
    if digest.hexdigest()[:16] != table.content_hash:
        raise DataError(
            f"{folder}: the content has hash {digest.hexdigest()[:16]}, set.json says {table.content_hash}: a file was "
            "changed or damaged. Copy the set again, or type data.verify=false to use it as it is"
        )


def _check(rows: Sequence[dict[str, Any]], captions: int) -> None:
    seen: set[str] = set()
    before = 0
    for row in rows:
        if row["id"] in seen:
            raise DataError(f"the picture id {row['id']!r} occurs twice; ids must be unique")
        if not before <= row["group"] < captions:
            raise DataError(
                f"picture {row['id']!r} has group {row['group']} after {before}; groups must ascend and lie in 0..{captions - 1}"
            )
        seen.add(row["id"])
        before = row["group"]


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


def _write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
