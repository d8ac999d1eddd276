"""Pairings: which pictures of a table form one anchor's positives.

A pairing is any class with the members of `Pairing`; `configs/pairing/*.yaml` names it by `_target_`, so
one in a user's own package works the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import PositiveInt

from lgrep.data.table import Table
from lgrep.errors import DataError


class Pairing(Protocol):
    """Chooses the pictures of an anchor.

    Attributes:
        pictures: P, pictures that `draw` returns per anchor.
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

    def substitutes(self, table: Table, anchor: int) -> Sequence[int]:
        """Rows that may stand in for a broken picture of this anchor, tried before any other row."""
        ...


class SelfPairing:
    """Every picture is its own anchor; positives are views of one picture (SimCLR)."""

    pictures = 1

    def anchors(self, table: Table) -> np.ndarray[Any, Any]:
        return np.arange(len(table))

    def draw(self, table: Table, anchor: int, rng: np.random.Generator) -> Sequence[int]:
        return [anchor]

    def group(self, table: Table, anchor: int) -> int:
        return anchor

    def substitutes(self, table: Table, anchor: int) -> Sequence[int]:
        return []


class SiblingPairing:
    """Every caption is an anchor; positives are different pictures of it (StableRep, arXiv 2306.00984).

    Pictures are drawn uniformly without replacement. Where the table has a `family` column, at most one
    picture of a family is used per anchor.

    Args:
        pictures: P, pictures per caption.
        shortage: what happens to a caption with fewer than P pictures (families): `repeat` shows some of
            them again (with other crops), `drop` leaves such captions out, `refuse` stops.
    """

    def __init__(self, pictures: PositiveInt = 6, shortage: Literal["repeat", "drop", "refuse"] = "repeat") -> None:
        self.pictures = pictures
        self.shortage = shortage

    def anchors(self, table: Table) -> np.ndarray[Any, Any]:
        if self.shortage == "repeat":
            return np.unique(table.group)
        counts = self._family_counts(table)
        enough = np.flatnonzero(counts >= self.pictures)
        short = int(((counts > 0) & (counts < self.pictures)).sum())
        if short and self.shortage == "refuse":
            raise DataError(
                f"{table.name}: {short} of {len(counts)} captions have fewer than {self.pictures} pictures. "
                f"Type pairing.pictures={int(counts[counts > 0].min())}, or pairing.shortage=repeat or =drop"
            )
        if not len(enough):
            raise DataError(
                f"{table.name}: no caption has {self.pictures} pictures (the most is {int(counts.max(initial=0))}). "
                f"Type pairing.pictures={int(counts.max(initial=1))} or pairing.shortage=repeat"
            )
        return enough

    def draw(self, table: Table, anchor: int, rng: np.random.Generator) -> Sequence[int]:
        members = table.members(anchor)
        shuffled = [members[i] for i in rng.permutation(len(members))]
        if table.has("family"):
            family = table.column("family")
            shuffled = list({int(family[row]): row for row in reversed(shuffled)}.values())[::-1]
        repeats = -(-self.pictures // len(shuffled))
        return (shuffled * repeats)[: self.pictures]

    def group(self, table: Table, anchor: int) -> int:
        return anchor

    def substitutes(self, table: Table, anchor: int) -> Sequence[int]:
        return table.members(anchor)

    def _family_counts(self, table: Table) -> np.ndarray[Any, Any]:
        units = table.column("family") if table.has("family") else np.arange(len(table))
        pairs = np.unique(np.stack([table.group.astype(np.int64), units.astype(np.int64)]), axis=1)
        return np.bincount(pairs[0], minlength=table.num_groups)
