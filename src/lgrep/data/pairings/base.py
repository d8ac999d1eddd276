"""What every pairing offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lgrep.data.table import Table

Pairs: TypeAlias = NDArray[np.int64]  # [2, E], flattened view-major places in the batch; row 0 is the anchor
Related: TypeAlias = tuple[tuple[Pairs, NDArray[np.float32]] | None, Pairs | None]
Relations: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], Related]


class Pairing(Protocol):
    """Chooses the pictures of an anchor.

    A pairing may also have a method `relations(table, anchors, rows) -> (positives, ignore)`, which says what the
    pictures of different anchors of a batch are to each other: `anchors` Long [B], `rows` Long [V, B] (the
    pictures shown); `positives` are pairs [2, E] with weights [E], `ignore` pairs [2, E] that are neither
    positive nor negative, each None when there are none (`Batch` has the same fields). It is called where the
    batch is put together; without it, pictures of different groups are negatives.

    Attributes:
        pictures: P, pictures that `draw` returns per anchor.
        unit: what an anchor counts, `picture` (a row of the table; assumed when absent) or `caption`.
    """

    pictures: int

    def anchors(self, table: Table) -> np.ndarray[Any, Any]:
        """The anchors of one epoch (row or caption numbers), each visited once."""
        ...

    def draw(self, table: Table, anchor: int, rng: np.random.Generator) -> Sequence[int]:
        """P rows of the table."""
        ...

    def group(self, table: Table, anchor: int) -> int:
        """The number that marks positives of this anchor."""
        ...

    def substitutes(self, table: Table, anchor: int, drawn: Sequence[int]) -> Sequence[int]:
        """Rows that may stand in for a broken picture of this anchor beside its other rows `drawn`, tried first."""
        ...


def relations_of(pairing: Pairing, table: Table) -> Relations | None:
    """The pairing's `relations` for this table, picklable; None when it has none."""
    function = getattr(pairing, "relations", None)
    return None if function is None else partial(function, table)


def first_rows(pairing: Pairing, table: Table, anchors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A row of the table for each anchor: its picture, or the first of its caption."""
    if getattr(pairing, "unit", "picture") == "picture":
        return anchors
    return np.asarray([table.members(int(anchor))[0] for anchor in anchors], dtype=np.int64)
