"""What a tar file holds, read from its headers; the bytes of pictures are passed over."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from lgrep.data.containers.samples import Member, Rules, Scan, gather
from lgrep.data.notices import shown
from lgrep.errors import DataError

PLACE = pa.schema([("offset", pa.int64()), ("size", pa.int64())])
_BLOCK = 512
_BROKEN = (ValueError, OverflowError, EOFError, IndexError, KeyError)  # what `tarfile` raises for broken headers
_PADDING = 2**16  # bytes of zeros that may follow the end mark
_PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
)


def scan_tar(path: Path, rules: Rules) -> Scan:
    """The samples of a tar file.

    A file that is cut short or damaged gives the samples before that place.

    Raises:
        DataError: it cannot be read, or is compressed.
    """
    try:
        with path.open("rb") as handle:
            walk = _Walk(handle.fileno(), os.fstat(handle.fileno()).st_size)
            _check_compressed(path, handle.read(8))
            handle.seek(0)
            scan = gather(walk.members(handle), rules, PLACE)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    scan.left_out += walk.left_out
    scan.damage, scan.lost = walk.damage, None if walk.cut else 0.0
    if walk.read and walk.damage:
        scan.lost = len(scan.rows) * (walk.length - walk.read) / walk.read
    return scan


class _Walk:
    """Members of an open tar file, and what is wrong with it.

    Args:
        handle: file descriptor.
        length: bytes of the file.
    """

    def __init__(self, handle: int, length: int) -> None:
        self.handle, self.length = handle, length
        self.left_out: list[tuple[str, str]] = []
        self.damage = ""
        self.cut = False
        self.read = 0  # bytes before the damage, where there is more behind it

    def members(self, handle: BinaryIO) -> Iterator[Member]:
        """Regular files, in their order; the attributes are known at the end."""
        try:
            archive = tarfile.open(fileobj=handle, mode="r:")  # noqa: SIM115
        except (tarfile.TarError, *_BROKEN):
            self._cut("is no tar file" if self.length else "is empty")
            return
        while True:
            try:
                entry = archive.next()
            except (tarfile.TarError, *_BROKEN):
                self._cut(f"is cut short or damaged at byte {archive.offset:,}")
                return
            if entry is None:
                break
            archive.members.clear()  # type: ignore[attr-defined]  # or they pile up
            if entry.isdir():
                continue
            if not entry.isreg() or entry.issparse():
                self.left_out.append((entry.name, "a link, a device or a sparse file"))
            elif entry.offset_data + entry.size > self.length:
                self._cut(f"is cut short within {shown(entry.name[:80])}")
                return
            else:
                yield self._member(entry)
        self._check_end(archive.offset)

    def _member(self, entry: tarfile.TarInfo) -> Member:
        start, size = entry.offset_data, entry.size
        return Member(
            entry.name, {"offset": start, "size": size}, lambda: os.pread(self.handle, min(size, 2**21), start)
        )

    def _check_end(self, at: int) -> None:
        block = os.pread(self.handle, _BLOCK, at)
        if not block:
            self.damage = "has no end mark and is perhaps cut short"
        elif any(block):
            self.damage, self.read = f"is damaged at byte {at:,}", at
        elif self.length - at > _PADDING and any(os.pread(self.handle, _PADDING, at)):
            self.damage, self.read = f"has more after its end mark at byte {at:,} (joined with cat?)", at

    def _cut(self, how: str) -> None:
        self.damage, self.cut = how, True


def _check_compressed(path: Path, start: bytes) -> None:
    for mark, kind, command in _PACKED:
        if start.startswith(mark):
            raise DataError(
                f"{path} is compressed ({kind}), which has no random access. Unpack it once: {command} '{path.name}'"
            )
