"""What a published object file may contain, checked before anything of it is built."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, Final

from lgrep.data.notices import shown
from lgrep.data.restricted.windows import MAX_TEXT, Windows

MAX_SHARED = 2**22  # values that the file refers to again; published files do so with the keys of their records
TEXT1, TEXT4, LINES, GET1, GET4, STOP, REFUSED = -1, -2, -3, -4, -5, -6, -7  # arguments without a fixed width
NAMES: Final = {op.code.encode("latin1")[0]: op.name for op in pickletools.opcodes}
_ALLOWED: Final = {  # bytes of the argument, or its kind
    0: "NONE NEWTRUE NEWFALSE EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM "
    "SETITEMS MARK MEMOIZE STACK_GLOBAL REDUCE BUILD",
    1: "PROTO BININT1 BINPUT",
    2: "BININT2",
    4: "BININT LONG_BINPUT",
    8: "FRAME BINFLOAT",
    TEXT1: "LONG1 SHORT_BINUNICODE SHORT_BINBYTES",
    TEXT4: "BINUNICODE BINBYTES",
    GET1: "BINGET",
    GET4: "LONG_BINGET",
    LINES: "GLOBAL",
    STOP: "STOP",
}
_KINDS: Final = {name: kind for kind, names in _ALLOWED.items() for name in names.split()}
ARGUMENTS: Final = [_KINDS.get(NAMES.get(code, ""), REFUSED) for code in range(256)]


class Refused(ValueError):
    """The file holds something that is not built; the message is a short reason."""


@dataclass(frozen=True)
class Name:
    """A name that NumPy's pickles refer to. It stands for itself and is never looked up."""

    name: str


RECONSTRUCT, NDARRAY, DTYPE = Name("_reconstruct"), Name("ndarray"), Name("dtype")
SCALAR, ENCODE, BYTES = Name("scalar"), Name("encode"), Name("bytes")
_GLOBALS: Final = {
    **{f"numpy.{core}.multiarray._reconstruct": RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": SCALAR for core in ("core", "_core")},
    "numpy.ndarray": NDARRAY,
    "numpy.dtype": DTYPE,
    "_codecs.encode": ENCODE,  # how protocol 2 writes bytes
    "__builtin__.bytes": BYTES,  # and how it writes none
}


def known_name(module: Any, name: Any) -> Name:
    """What stands for a global of a file.

    Raises:
        Refused: any other than those of NumPy's object arrays.
    """
    whole = f"{module}.{name}"
    if whole not in _GLOBALS:
        raise Refused(f"it asks for the global '{shown(whole[:120])}'")
    return _GLOBALS[whole]


def shared_values(windows: Windows) -> set[int]:
    """Numbers of the values that the file refers to again, so that only those need be kept.

    Raises:
        Refused: an opcode or a global that is not allowed, bytes after the end.
        Ended: the file is cut short.
    """
    shared: set[int] = set()
    while True:
        data, pos, safe = windows.view()
        while pos < safe:
            kind = ARGUMENTS[data[pos]]
            if kind >= 0:
                pos += 1 + kind
            elif kind == TEXT1:
                pos += 2 + data[pos + 1]
            elif kind == TEXT4:
                pos += 5 + text_length(data, pos)
            elif kind >= GET4 and kind <= GET1:
                end = pos + (2 if kind == GET1 else 5)
                shared.add(int.from_bytes(data[pos + 1 : end], "little"))
                pos = end
            elif kind == LINES:
                pos = named_lines(data, pos)[1]
            elif kind == STOP:
                _check_end(windows.left(pos + 1))
                return shared
            else:
                name = NAMES.get(data[pos], hex(data[pos]))
                raise Refused(f"byte {windows.base + pos:,} is the opcode {name}")
        if len(shared) > MAX_SHARED:
            raise Refused(f"it refers to more than {MAX_SHARED:,} of its values again")
        windows.move(pos)


def argument_at(data: bytes, pos: int, kind: int) -> tuple[Any, int]:
    """Argument of the opcode of this kind at `pos`, and the position after it."""
    if kind > 0:
        end = pos + 1 + kind
        return data[pos + 1 : end], end
    if kind == TEXT1:
        end = pos + 2 + data[pos + 1]
        return data[pos + 2 : end], end
    if kind == TEXT4:
        end = pos + 5 + text_length(data, pos)
        return data[pos + 5 : end], end
    if kind == LINES:
        return named_lines(data, pos)
    end = pos + (2 if kind == GET1 else 5)
    return data[pos + 1 : end], end


def text_length(data: bytes, pos: int) -> int:
    """Bytes of the string whose opcode is at `pos`.

    Raises:
        Refused: longer than any caption.
    """
    length = int.from_bytes(data[pos + 1 : pos + 5], "little")
    if length > MAX_TEXT:
        raise Refused(f"it holds a string of {length:,} bytes, more than {MAX_TEXT:,}")
    return length


def named_lines(data: bytes, pos: int) -> tuple[Name, int]:
    """The global whose opcode is at `pos`, and the position after it."""
    middle = data.find(b"\n", pos, pos + 256)
    end = data.find(b"\n", middle + 1, middle + 256)
    if middle < 0 or end < 0:
        raise Refused("it asks for a global whose name does not end")
    module, name = data[pos + 1 : middle], data[middle + 1 : end]
    return known_name(module.decode("utf-8", "replace"), name.decode("utf-8", "replace")), end + 1


def _check_end(left: int) -> None:
    if left > 0:
        raise Refused(f"{left:,} bytes follow its end")
