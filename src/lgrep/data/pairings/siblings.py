"""Pictures of one caption as positives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from lgrep.data.notices import notice
from lgrep.data.table import Table
from lgrep.errors import DataError


class SiblingPairing:
    """Every caption is an anchor; positives are different pictures of it (StableRep, arXiv 2306.00984).

    Pictures are drawn uniformly without replacement. Where the table has a `family` column, at most one
    picture of a family is used per anchor.

    Args:
        pictures: P, pictures per caption.
        shortage: what happens to a caption with fewer than P pictures (families): `repeat` shows some of
            them again (with other crops), `drop` leaves such captions out, `refuse` stops. The number of such
            captions is printed.
    """

    unit = "caption"

    def __init__(self, pictures: PositiveInt = 6, shortage: Literal["repeat", "drop", "refuse"] = "repeat") -> None:
        self.pictures = pictures
        self.shortage = shortage

    def anchors(self, table: Table) -> np.ndarray[Any, Any]:
        counts = self._family_counts(table)
        short = int(((counts > 0) & (counts < self.pictures)).sum())
        filled, most = int((counts > 0).sum()), int(counts.max(initial=0))
        enough = np.flatnonzero(counts >= self.pictures)
        found = (
            f"{table.name}: {short:,} of {filled:,} captions have fewer than pairing.pictures={self.pictures} pictures"
        )
        if self.shortage == "repeat":
            if most == 1 and self.pictures > 1:
                notice(
                    f"{table.name}: every caption has one picture, so that pairing=siblings shows it {self.pictures} times "
                    "like pairing=self does. Siblings come from data with several pictures per caption; "
                    "pairing=neighbour pairs different captions"
                )
            elif short:
                notice(
                    f"{found} (the most is {most}); theirs are shown again with other crops (pairing.shortage=repeat)"
                )
            return np.flatnonzero(counts)
        if not len(enough):
            raise DataError(
                f"{table.name}: no caption has pairing.pictures={self.pictures} pictures (the most is {most}). "
                f"Type pairing.pictures={max(1, most)} or pairing.shortage=repeat"
            )
        if short and self.shortage == "refuse":
            raise DataError(
                f"{found}. Type pairing.pictures={int(counts[counts > 0].min())}, or pairing.shortage=repeat or =drop"
            )
        if short:
            notice(f"{found} and are left out (pairing.shortage=drop)")
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

    def substitutes(self, table: Table, anchor: int, drawn: Sequence[int]) -> Sequence[int]:
        members = table.members(anchor)
        if not table.has("family"):
            return members
        family = table.column("family")
        taken = {int(family[row]): row for row in drawn}
        return [row for row in members if taken.get(int(family[row]), row) == row]

    def _family_counts(self, table: Table) -> np.ndarray[Any, Any]:
        if not table.has("family"):
            return table.counts
        units = table.column("family")
        pairs = np.unique(np.stack([table.group.astype(np.int64), units.astype(np.int64)]), axis=1)
        return np.bincount(pairs[0], minlength=table.num_groups)
