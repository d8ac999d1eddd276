"""Shards of a generated set on disk: parts of them while they are made, tar files when they are finished."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from lgrep.data.notices import notice, shown
from lgrep.errors import DataError
from lgrep.generation.broken import OK
from lgrep.generation.plan import WORK, Shard, durable, work_folder

_HEADER = 512  # bytes of a tar member before its data
_READ = 2**24
_SECONDS = b"seconds"


@dataclass(frozen=True)
class Drawn:
    """One picture of a shard.

    Attributes:
        caption: row of its caption.
        index: number of it among those of its caption.
        attempt: how many broken pictures came before it.
        status: `ok`, or why it is not stored.
        flagged: by the safety checker.
        looks: its `difference_hash`.
        data: its encoded bytes; none when it is not stored.
    """

    caption: int
    index: int
    attempt: int
    status: str
    flagged: bool
    looks: int
    data: bytes = b""


_PART = pa.schema(
    [("caption", pa.int32()), ("index", pa.int32()), ("attempt", pa.int32()), ("status", pa.string()),
     ("flagged", pa.bool_()), ("looks", pa.uint64()), ("data", pa.binary())]
)  # fmt: skip
ROWS = pa.schema(
    [*(part for part in _PART if part.name != "data"),
     ("truncated", pa.bool_()), ("offset", pa.int64()), ("size", pa.int32()), ("digest", pa.binary(32))]
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """What is known of a finished shard.

    Attributes:
        sha256, size: of its tar file.
        pictures: that were drawn for it, those that are not stored included.
        drawn: pictures that the pipeline drew, broken attempts included.
        batch_size: with which it was made.
        seconds: that drawing, encoding and writing took.
        device: that drew.
        truncated: captions whose end no text encoder reads.
        counts: status -> pictures.
    """

    sha256: str
    size: int
    pictures: int
    drawn: int
    batch_size: int
    seconds: float
    device: str
    truncated: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class Storage:
    """The files of one set.

    A shard is finished when its record is there, which is written after its tar file and its rows reached the disk.

    Args:
        folder: of the set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / WORK / "shards"
        self.parts = folder / WORK / "parts"
        self.records.mkdir(parents=True, exist_ok=True)

    def tar(self, shard: Shard) -> Path:
        """The shard's pictures, each with a JSON file on how it was made."""
        return self.folder / f"{shard.name}.tar"

    def rows(self, shard: Shard) -> pa.Table:
        """Its pictures in the order of captions, those that are not stored with size 0."""
        with pa.memory_map(str(self.records / f"{shard.name}.arrow"), "r") as source:
            return pa.ipc.open_file(source).read_all()

    def finished(self, shard: Shard) -> Finished | None:
        """Its record, if it is finished and its file has the right size."""
        try:
            found = json.loads((self.records / f"{shard.name}.json").read_text(encoding="utf-8"))
            record = Finished(**{key.name: found[key.name] for key in fields(Finished)})
            return record if self.tar(shard).stat().st_size == record.size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def drop_damaged(self, shards: Iterable[Shard]) -> int:
        """Forget finished shards whose bytes are not what was written; how many there were."""
        damaged = []
        for shard in shards:
            record = self.records / f"{shard.name}.json"
            if record.exists() and not self._intact(shard):
                record.unlink(missing_ok=True)
                damaged.append(shard.name)
        if damaged:
            notice(f"{shown(self.folder)}: {len(damaged):,} damaged shards are made again, {damaged[0]}.tar for one")
        return len(damaged)

    def _intact(self, shard: Shard) -> bool:
        record = self.finished(shard)
        try:
            return record is not None and _sha256(self.tar(shard)) == record.sha256 and self._right_rows(shard, record)
        except OSError:
            return False

    def _right_rows(self, shard: Shard, record: Finished) -> bool:
        try:
            rows = self.rows(shard)
            rows.validate(full=True)
        except (pa.ArrowException, OSError):
            return False
        return bool(rows.schema.remove_metadata() == ROWS and len(rows) == record.pictures)

    def write_part(self, shard: Shard, batch_size: int, name: str, pictures: Sequence[Drawn], seconds: float) -> None:
        """Keep a batch of an unfinished shard."""
        folder = self._part_folder(shard, batch_size)
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([asdict(picture) for picture in pictures], _PART)
        digest = hashlib.sha256(b"".join(picture.data for picture in pictures)).hexdigest()
        table = table.replace_schema_metadata({_SECONDS: str(seconds), b"sha256": digest})
        partial = work_folder(self.folder) / f"{shard.name}-{name}.partial-{os.getpid()}"
        try:
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            os.replace(partial, folder / f"{name}.arrow")  # not forced to the disk: its hash tells whether it got there
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def read_part(self, shard: Shard, batch_size: int, name: str) -> tuple[list[Drawn], float] | None:
        """A batch that was kept, and the seconds it took; None when there is none, or it is damaged."""
        path = self._part_folder(shard, batch_size) / f"{name}.arrow"
        try:
            with pa.OSFile(str(path), "rb") as source:
                table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)
            about = table.schema.metadata
            pictures = [Drawn(**row) for row in table.to_pylist()]
        except (OSError, pa.ArrowException, TypeError, ValueError):
            return None
        whole = hashlib.sha256(b"".join(picture.data for picture in pictures)).hexdigest()
        return (pictures, float(about[_SECONDS])) if whole.encode() == about[b"sha256"] else None

    def write(
        self,
        shard: Shard,
        pictures: Sequence[Drawn],
        suffix: str,
        about: Mapping[int, dict[str, Any]],
        facts: dict[str, Any],
    ) -> Finished:
        """Finish a shard.

        Args:
            shard: which.
            pictures: one per caption, in order.
            suffix: of their file names.
            about: caption -> what is told of its picture in the tar file.
            facts: further attributes of `Finished`.
        """
        rows = self._write_tar(shard, pictures, suffix, about)
        with (
            durable(self.records / f"{shard.name}.arrow", self.folder) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, ROWS) as writer,
        ):
            writer.write_table(pa.Table.from_pylist(rows, ROWS))
        counts: dict[str, int] = {}
        for picture in pictures:
            counts[picture.status] = counts.get(picture.status, 0) + 1
        file = self.tar(shard)
        cut = sum(row["truncated"] for row in rows)
        record = Finished(_sha256(file), file.stat().st_size, len(pictures), truncated=cut, counts=counts, **facts)
        with durable(self.records / f"{shard.name}.json", self.folder) as partial:
            partial.write_text(json.dumps(asdict(record)) + "\n", encoding="utf-8")
        self.drop_parts(shard)
        return record

    def _write_tar(
        self, shard: Shard, pictures: Sequence[Drawn], suffix: str, about: Mapping[int, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Write the file of a shard; its rows."""
        rows = []
        with (
            durable(self.tar(shard), self.folder) as partial,
            tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for picture in pictures:
                row = {**asdict(picture), "offset": 0, "size": 0, "digest": hashlib.sha256(picture.data).digest()}
                del row["data"]
                row["truncated"] = about[picture.caption]["truncated"]
                if picture.status == OK:
                    name = picture_name(picture.caption, picture.index)
                    row |= {"offset": tar.offset + _HEADER, "size": len(picture.data)}
                    _add(tar, f"{name}.{suffix}", picture.data)
                    text = json.dumps({**about[picture.caption], "attempt": picture.attempt}, ensure_ascii=False)
                    _add(tar, f"{name}.json", text.encode())
                rows.append(row)
        return rows

    def drop_parts(self, shard: Shard) -> None:
        """Remove the batches of a shard, which are in its tar file now or have another size."""
        for folder in self.parts.glob(f"{shard.name}-b*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _part_folder(self, shard: Shard, batch_size: int) -> Path:
        return self.parts / f"{shard.name}-b{batch_size}"


def picture_name(caption: int, index: int) -> str:
    """Id of a picture, and the stem of its files.

    >>> picture_name(12, 3)
    '00000012_0003'
    """
    return f"{caption:08d}_{index:04d}"


def read_picture(tar: Path, offset: int, size: int) -> bytes:
    """The encoded bytes of a picture.

    Raises:
        DataError: the file is shorter.
    """
    with tar.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise DataError(f"{shown(tar)} is cut short. The same command makes it again")
    return data


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # time and owner are 0: equal pictures give equal files
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
