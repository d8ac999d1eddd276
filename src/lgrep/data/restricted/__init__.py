"""Reading the published object files (`cc3m.npy`, `cc12m.npy`, `yfcc15m.pkl`) without executing them.

They are pickles, which are programs. The interpreter here knows the opcodes that build plain values and the few that
rebuild an object array of NumPy; it looks up no name, imports nothing and calls nothing that the file could choose.
The standard library's own reader, even with `find_class` closed, would build 12 million records at once and has no
limits against files that are made to exhaust memory or time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lgrep.data.notices import reason_of, shown
from lgrep.data.reading_bar import reading_bar
from lgrep.data.restricted.machine import Machine
from lgrep.data.restricted.opcodes import Refused, shared_values
from lgrep.data.restricted.windows import Ended, Windows
from lgrep.errors import DataError


def read_records(path: Path, setting: str = "data.metadata") -> Iterator[list[Any]]:
    """Items of the list or object array that a published file holds, in batches of a few hundred.

    A pickle (protocol 2 to 5), or a `.npy` file around one; the content decides, not the name. Everything in it is a
    dict (with keys of str or int), list, tuple, str, bytes, int, float, bool or None. The file is read twice, in
    windows of a few MB; the first time, anything that may not be built is refused. A two-dimensional array gives one
    list per row; anything else than a list or array gives one batch with that object.

    Args:
        path: the file.
        setting: what names it in messages.

    Raises:
        DataError: names the opcode or the global and its byte: any other opcode or global, a file that is cut short,
            bytes after its end, or a structure beyond the limits in `lgrep.data.restricted.opcodes`.
    """
    place = f"{setting}={shown(path)}"
    try:
        with path.open("rb") as file:
            start, shape = _array_header(file)
            size = path.stat().st_size
            with reading_bar(f"reading {shown(path.name)}", 2 * size) as advance:
                windows = Windows(file, start, advance)
                shared = shared_values(windows)
                windows.restart()
                yield from _rows(Machine(windows, shared, size), shape)
    except OSError as error:
        raise DataError(f"{place} cannot be read ({reason_of(error)}). Type {setting}=FILE") from error
    except Ended as error:
        raise DataError(f"{place} is cut short: it ends in the middle of its content. Copy it again") from error
    except Refused as error:
        raise DataError(
            f"{place} is refused: {error}. Only lists, dicts, strings and numbers are read from such a file "
            "(docs/data_formats.md)"
        ) from error


def _array_header(file: BinaryIO) -> tuple[int, tuple[int, ...] | None]:
    """Where the pickle starts, and the shape that a `.npy` file promises."""
    start = file.read(8)
    file.seek(0)
    if start[:6] != b"\x93NUMPY":
        if start[:1] != b"\x80":
            raise Refused(f"it starts with {start!r}, which is neither a .npy file nor a pickle of protocol 2 to 5")
        return 0, None
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, kind = readers[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise Refused(f"its header is damaged ({str(error)[:80]})") from error
    if kind != np.dtype(object) or (fortran and len(shape) > 1):
        raise Refused(f"it is an array of {kind} {shape}, not of objects")
    return file.tell(), shape


def _rows(machine: Machine, shape: tuple[int, ...] | None) -> Iterator[list[Any]]:
    """Batches of the array's rows; an array of rank 2 comes as one flat list."""
    width = shape[1] if shape is not None and len(shape) == 2 else 0
    flat: list[Any] = []
    items = 0
    for batch in machine.batches():
        items += len(batch)
        if width:
            flat += batch
            whole = len(flat) - len(flat) % width
            batch = [flat[i : i + width] for i in range(0, whole, width)]
            del flat[:whole]
        yield batch
    if shape is not None and items != int(np.prod(shape, dtype=object)):
        raise Refused(f"its header promises an array of shape {shape}, it holds {items:,} objects")


__all__ = ["read_records"]
