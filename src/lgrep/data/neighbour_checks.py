"""What the values of a neighbour table must fulfil."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrep.errors import DataError

AGAIN = "Copy the neighbour table again, or mine it again"


def check_range(place: str, indices: NDArray[Any], start: int, rows: int) -> None:
    """Refuse what is not -1 or a row of the table."""
    if not np.issubdtype(indices.dtype, np.integer):
        raise DataError(f"{place}: neighbours are integers; got {indices.dtype}")
    if indices.size and (indices.min() < -1 or indices.max() >= rows):
        wrong = ((indices < -1) | (indices >= rows)).any(axis=1)
        _refuse(place, wrong, start, indices, f"neighbours lie in 0..{rows - 1}, or are -1 for none")


def check_block(
    place: str, indices: NDArray[np.int32], similarities: NDArray[np.float32], start: int, rows: int
) -> None:
    """Refuse rows [start, start + n) that are out of range, list themselves, or are out of order."""
    check_range(place, indices, start, rows)
    own = indices == np.arange(start, start + len(indices), dtype=np.int32)[:, None]
    _refuse(place, own.any(axis=1), start, indices, "a row may not list itself")
    some = indices >= 0
    holes = (some[:, 1:] & ~some[:, :-1]).any(axis=1)
    _refuse(place, holes, start, indices, "-1 (none) may only stand at the end of a row")
    unsure = (some & ~np.isfinite(similarities)).any(axis=1)
    _refuse(place, unsure, start, similarities, "similarities are finite")
    rising = (some[:, 1:] & (similarities[:, 1:] > similarities[:, :-1])).any(axis=1)
    _refuse(place, rising, start, similarities, "similarities fall from left to right")


def check_unique(place: str, indices: NDArray[np.int32], start: int) -> None:
    """Refuse rows that list another one twice."""
    ordered = np.sort(indices, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    _refuse(place, twice, start, indices, "a row may list another one once only")


def _refuse(place: str, wrong: Any, start: int, values: NDArray[Any], rule: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        listed = ", ".join(f"{value:.6g}" for value in values[row][:8])
        raise DataError(
            f"{place}: {rule}; row {start + row:,} has [{listed}] ({int(wrong.sum()):,} such rows). {AGAIN}"
        )
