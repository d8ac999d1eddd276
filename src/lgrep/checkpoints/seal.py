"""The content hash at the end of a checkpoint, by which damage is found before anything is read."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch

_MARK = b"sha256:"
_SIZE = len(_MARK) + 64
_LENGTH = struct.pack("<H", _SIZE)
_TAIL = len(_LENGTH) + _SIZE
_END, _END_SIZE = b"PK\x05\x06", 22  # the last record of a zip archive: its signature and its size without a comment
_BLOCK = 2**22


class _Hashing:
    """A file that hashes what is written to it, in order."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.handle.write(data)

    def flush(self) -> None:
        self.handle.flush()


def save_sealed(content: Any, handle: BinaryIO) -> None:
    """Write what `torch.save` writes, with its SHA-256 as the comment of the zip archive that such a file is.

    The hash travels with the file, which any version of torch reads: the last bytes are `sha256:` and 64 hexadecimal
    digits, those of the file before the comment was added (its length, the two bytes before, then being zero).

    Args:
        content: what `torch.save` takes.
        handle: new and open for writing in binary mode.

    Raises:
        OSError, RuntimeError: the file cannot be written.
    """
    hashing = _Hashing(handle)
    torch.save(content, hashing)  # type: ignore[arg-type]
    handle.seek(-len(_LENGTH), os.SEEK_END)  # the length of the comment is the last field of a zip archive
    handle.write(_LENGTH + _MARK + hashing.digest.hexdigest().encode())


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, None if nothing is or the file has no seal.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        return "it is empty"
    with path.open("rb") as handle:
        handle.seek(max(0, size - _TAIL - _END_SIZE))
        end = handle.read()
        tail = end[-_TAIL:]
        length, mark, stored = tail[:2], tail[2:-64], tail[-64:]
        if size <= _TAIL or (mark != _MARK and length != _LENGTH):
            return "it is cut off" if _END in end[:-_END_SIZE] else None
        digest, left = hashlib.sha256(), size - _TAIL
        handle.seek(0)
        while left:
            block = handle.read(min(_BLOCK, left))
            if not block:
                return "it became shorter while it was read"
            digest.update(block)
            left -= len(block)
    digest.update(bytes(len(_LENGTH)))
    intact = mark == _MARK and length == _LENGTH and stored == digest.hexdigest().encode()
    return None if intact else "its content is not what was written: the SHA-256 at its end differs"
