"""The values that a published object file may hold, and stand-ins for what rebuilds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lgrep.data.restricted.opcodes import Refused

MAX_DEPTH = 8  # a record is a mapping with a list of strings: 2
LEAVES: Final = {str, int, float, bool, bytes, type(None)}
CONTAINERS: Final = {list, tuple, dict}
_SCALARS: Final = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "b1")


@dataclass(eq=False)
class Array:
    """An object array under construction."""


@dataclass(eq=False)
class Kind:
    """A data type of NumPy: its code, and `<` or `>`."""

    code: str
    order: str = "<"


class Sink(list[Any]):
    """The outermost list, whose items are handed on."""


def python_scalar(kind: Any, data: Any) -> Any:
    """A number or string of NumPy as Python's own."""
    if type(kind) is not Kind or type(data) is not bytes:
        raise TypeError
    if kind.code in _SCALARS:
        return np.frombuffer(data, np.dtype(kind.order + kind.code), count=1)[0].item()
    if kind.code.startswith("U"):
        return data.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0")
    raise Refused(f"it contains a number of the type '{kind.code[:20]}'")


def check_plain(value: Any, depth: int) -> None:
    """Refuse anything but plain values in lists, tuples and dicts that are not too deep."""
    kind = type(value)
    if kind in LEAVES:
        return
    if kind not in CONTAINERS:
        raise Refused("an unfinished array or a bare name takes the place of a value")
    if not depth:
        raise Refused(f"it is nested deeper than {MAX_DEPTH} levels")
    for one in value.values() if kind is dict else value:
        if type(one) not in LEAVES:
            check_plain(one, depth - 1)


def weight(value: Any, most: int) -> int:
    """Values in a container at any depth, and the bytes of its texts; counted no further than `most`."""
    total, rest = 0, [value]
    while rest and total <= most:
        one = rest.pop()
        kind = type(one)
        if kind in CONTAINERS:
            rest.extend(one.values() if kind is dict else one)
            total += len(one)
        elif kind is str or kind is bytes:
            total += len(one)
    return total + 1
