"""Members of zip archives: found in the central directory by name, read with one call, checked.

`zipfile` reads and parses a whole central directory when it opens an archive; random access to many archives would
spend nearly all its time there. Formats: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lgrep.data.containers.ranges import OpenFiles, check_size

STORED, DEFLATED, ENCRYPTED = 0, 8, -1
_ENCRYPTED, _UTF8 = 0x1, 0x800
_END, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR, _ENTRY, _LOCAL = struct.Struct("<4sLQL"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_TAIL = 2**16 + _END.size  # the end record may be followed by a comment of 64 KB
_SLACK = 512  # bytes of extra fields that one read of a member allows for
_FULL = 0xFFFFFFFF  # the number is in the Zip64 field


class Member(NamedTuple):
    """Where a member lies and what it must be.

    Attributes:
        header: byte of its local header.
        packed: bytes in the archive.
        size: bytes when unpacked.
        method: `STORED`, `DEFLATED`, `ENCRYPTED`, or another number of the format.
        crc: CRC-32 of the unpacked bytes.
    """

    header: int
    packed: int
    size: int
    method: int
    crc: int


def read_member(files: OpenFiles, archive: Path, member: Member) -> bytes:
    """The unpacked bytes of a member.

    Raises:
        OSError: the archive cannot be read.
        ValueError: too large, cut short, packed in another way, or its bytes are not those that were packed.
    """
    check_size(max(member.packed, member.size))
    data = files.read(archive, member.header, _LOCAL.size + _SLACK + member.packed)
    if len(data) < _LOCAL.size or data[:4] != b"PK\x03\x04":
        raise ValueError("the zip archive is damaged or was changed: no member at the place noted")
    *_, name, extra = _LOCAL.unpack_from(data)
    start = _LOCAL.size + name + extra
    packed = data[start : start + member.packed]
    if len(packed) < member.packed and name + extra > _SLACK:
        packed = files.read(archive, member.header + start, member.packed)
    if len(packed) < member.packed:
        raise ValueError("the zip archive is cut short within this member")
    return unpack(packed, member)


def unpack(packed: bytes, member: Member) -> bytes:
    """The bytes that were packed, never more than the member's size.

    Raises:
        ValueError: another size, another CRC-32, or a method that is not read.
    """
    if member.method == STORED:
        data = packed
    elif member.method == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
        except zlib.error as error:
            raise ValueError(f"the deflated zip member is damaged ({error})") from error
    elif member.method == ENCRYPTED:
        raise ValueError("the zip member is encrypted; unpack the archive")
    else:
        raise ValueError(f"zip compression method {member.method} is not read: only stored and deflated members are")
    if len(data) != member.size:
        raise ValueError(f"the zip member does not unpack to the {member.size:,} bytes that the archive says")
    if zlib.crc32(data) != member.crc:
        raise ValueError("bad CRC: the zip member is not what was packed")
    return data


class Directories:
    """Central directories of archives, the ones used last kept. Picklable: every process reads its own.

    Args:
        files: reads the archives.
        limit: most directories kept.
        limit_bytes: most bytes kept.
    """

    def __init__(self, files: OpenFiles, limit: int = 64, limit_bytes: int = 64 * 2**20) -> None:
        self.files = files
        self.limit, self.limit_bytes = limit, limit_bytes
        self._kept: OrderedDict[Path, bytes] = OrderedDict()

    def find(self, archive: Path, name: str) -> Member:
        """The member of that name.

        Raises:
            OSError: the archive cannot be read, or has no such member.
            ValueError: it is no zip archive, or the member cannot be read.
        """
        directory = self._directory(archive)
        for encoded in dict.fromkeys((name.encode("utf-8", "surrogateescape"), name.encode("cp437", "replace"))):
            at = directory.find(encoded)
            while at >= 0:
                entry = at - _ENTRY.size
                if directory[max(0, entry) : max(0, entry) + 4] == b"PK\x01\x02" and _name(directory, entry) == encoded:
                    return _entry(directory, entry)[0]
                at = directory.find(encoded, at + 1)
        raise FileNotFoundError(2, f"no member {name!r}", str(archive))

    def _directory(self, archive: Path) -> bytes:
        directory = self._kept.get(archive)
        if directory is not None:
            self._kept.move_to_end(archive)
            return directory
        directory = self._kept[archive] = read_directory(self.files, archive)
        while len(self._kept) > self.limit or (
            len(self._kept) > 1 and sum(map(len, self._kept.values())) > self.limit_bytes
        ):
            self._kept.popitem(last=False)
        return directory

    def __reduce__(self) -> tuple[type[Directories], tuple[OpenFiles, int, int]]:
        return Directories, (self.files, self.limit, self.limit_bytes)


def read_directory(files: OpenFiles, archive: Path) -> bytes:
    """The central directory as it lies in the archive.

    Raises:
        OSError: the archive cannot be read.
        ValueError: it is no zip archive, cut short, or in several parts.
    """
    length = files.size(archive)
    tail_at = max(0, length - _TAIL)
    tail = files.read(archive, tail_at, length - tail_at)
    at = _end_record(tail)
    _, disk, _, _, _, size, offset, _ = _END.unpack_from(tail, at)
    if disk not in (0, 0xFFFF):
        raise ValueError("a part of a split zip archive; join the parts first (zip -s 0)")
    locator = at - _LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        where = _LOCATOR.unpack_from(tail, locator)[2]
        record = files.read(archive, where, _END64.size)
        if len(record) < _END64.size or record[:4] != b"PK\x06\x06":
            raise ValueError("the zip archive is damaged: its Zip64 directory cannot be found")
        size, offset = _END64.unpack(record)[-2:]
    if offset + size > length:
        raise ValueError("the zip archive is damaged or cut short: its directory lies beyond its end")
    return tail[offset - tail_at :][:size] if offset >= tail_at else files.read(archive, offset, size)


def _end_record(tail: bytes) -> int:
    """Where the record is whose comment reaches to the end of the file; else the last one, which more may follow."""
    at = last = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
    while at >= 0:
        if at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail):
            return at
        at = tail.rfind(b"PK\x05\x06", 0, at)
    if last < 0:
        raise ValueError("no zip archive, or cut short: its directory, which comes last, is missing")
    return last


def members(directory: bytes) -> Iterator[tuple[str, Member]]:
    """Every member of a central directory with its name.

    Raises:
        ValueError: the directory is damaged.
    """
    at = 0
    while at < len(directory):
        member, end = _entry(directory, at)
        raw, flags = _name(directory, at), _ENTRY.unpack_from(directory, at)[3]
        name = raw.decode("utf-8", "surrogateescape") if flags & _UTF8 else raw.decode("cp437")
        yield name, member
        at = end


def _entry(directory: bytes, at: int) -> tuple[Member, int]:
    """The member that the entry at this place describes, and where the entry ends."""
    if len(directory) - at < _ENTRY.size or directory[at : at + 4] != b"PK\x01\x02":
        raise ValueError("the directory of the zip archive is damaged")
    entry = _ENTRY.unpack_from(directory, at)
    flags, method, crc, packed, size, name, extra, comment = entry[3], entry[4], *entry[7:13]
    header, fields = entry[-1], directory[at + _ENTRY.size + name :][:extra]
    if flags & _ENCRYPTED:
        method = ENCRYPTED
    if _FULL in (packed, size, header):
        size, packed, header = _zip64(fields, size, packed, header)
    return Member(header, packed, size, method, crc), at + _ENTRY.size + name + extra + comment


def _zip64(fields: bytes, *values: int) -> list[int]:
    """Sizes and place with those that did not fit taken from the Zip64 extra field, which lists only these."""
    at = 0
    while at + 4 <= len(fields):
        kind, length = struct.unpack_from("<2H", fields, at)
        if kind == 1:
            wide = [number for (number,) in struct.iter_unpack("<Q", fields[at + 4 : at + 4 + length // 8 * 8])]
            wanting = iter(wide)
            return [next(wanting, value) if value == _FULL else value for value in values]
        at += 4 + length
    return list(values)


def _name(directory: bytes, at: int) -> bytes:
    length = _ENTRY.unpack_from(directory, at)[10]
    return directory[at + _ENTRY.size : at + _ENTRY.size + length]
