"""Pictures of nearest neighbours as positives."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from lgrep.data.neighbours import NeighbourTable, open_neighbours
from lgrep.data.notices import notice, shown
from lgrep.data.pairings.base import Related
from lgrep.data.pairings.graph import NeighbourGraph, expand_pairs
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError

_MOST_CANDIDATES = 1024  # of a hub that thousands of others list
_MOST_SUBSTITUTES = 32


class NeighbourPairing:
    """Every picture is an anchor; its positives are pictures of its nearest neighbours (arXiv 2302.12248).

    Neighbours come from a table that `scripts/mine_neighbours.py` writes (`lgrep.data.neighbours`). In a table of
    captions, a neighbour is a caption, and one of its pictures is drawn uniformly; in a table of pictures it
    is a picture. Where the set has a `family` column, pictures of one family are never drawn together.

    The published pairs (lgssl): k=1, threshold=0, directed, `missing=drop`, `in_batch=negative`.

    Args:
        table: folder of the neighbour table.
        pictures: P: the anchor and P - 1 neighbours (without repetition as long as there are enough).
        k: use the k nearest of the stored neighbours; None: all.
        threshold: least similarity; None: any.
        sampling: which of the k: `uniform`, the `nearest`, or by `similarity` (softmax(similarity / temperature)).
        temperature: of that softmax.
        symmetric: units that list the anchor among their k nearest are its neighbours too.
        missing: an anchor without a neighbour is its `self` (two views of its picture), is left out (`drop`), or
            stops the run (`refuse`). The number of such anchors is printed.
        in_batch: what a picture of another anchor is when it shows a neighbour of this one, or the same caption:
            a `negative` as published, `ignore`d, or `positive` (weight 1). Methods read it from `Batch.ignore` and
            `Batch.positives`, which hold pairs within one process's batch.
        mine: make the table first, with the default miner, where it is missing (`lgrep.mining`).

    Raises:
        ConfigError: more pictures than k neighbours can give.
    """

    def __init__(
        self,
        table: str | None = None,
        pictures: Annotated[int, Field(ge=2)] = 2,
        k: PositiveInt | None = 1,
        threshold: float | None = 0.0,
        sampling: Literal["uniform", "nearest", "similarity"] = "uniform",
        temperature: PositiveFloat = 0.05,
        symmetric: bool = False,
        missing: Literal["self", "drop", "refuse"] = "drop",
        in_batch: Literal["negative", "ignore", "positive"] = "negative",
        mine: bool = False,
    ) -> None:
        if k is not None and not symmetric and pictures - 1 > k:
            raise ConfigError(
                f"pairing.pictures={pictures} shows {pictures - 1} neighbours, but pairing.k={k} uses only {k}. "
                f"Type pairing.k={pictures - 1} or more, or pairing.pictures={k + 1}"
            )
        self.table = table
        self.pictures = pictures
        self.k = k
        self.threshold = threshold
        self.sampling = sampling
        self.temperature = temperature
        self.symmetric = symmetric
        self.missing = missing
        self.in_batch = in_batch
        self.mine = mine
        self._opened: tuple[str, NeighbourTable, NeighbourGraph] | None = None  # of the set with this hash

    def anchors(self, table: Table) -> NDArray[Any]:
        neighbours, graph = self._open(table)
        neighbours.check()
        if self.symmetric:
            graph.reverse()  # before workers exist, so that they share it
        edges, fits = self._reachable(table, graph)
        lonely = int(len(table) - fits.sum())
        limits = {"k": self.k, "threshold": self.threshold}
        asked = " ".join(f"pairing.{name}={value}" for name, value in limits.items() if value is not None)
        found = f"{table.name}: {lonely:,} of {len(table):,} pictures have no neighbour{f' with {asked}' * bool(asked)}"
        if lonely == len(table):
            best = neighbours.similarities[:, 0].max(initial=-np.inf)
            raise DataError(
                f"{found}; the greatest similarity is {best:.3g}. Type pairing.threshold=null or a lower one"
            )
        if lonely and self.missing == "refuse":
            raise DataError(f"{found}. Type pairing.missing=self or =drop, or a lower pairing.threshold")
        if lonely:
            what = "are left out" if self.missing == "drop" else "are paired with themselves"
            notice(f"{found} and {what} (pairing.missing={self.missing})")
        few = int((fits & (edges < self.pictures - 1)).sum())
        if few:
            notice(
                f"{table.name}: {few:,} of {len(table):,} pictures have fewer than {self.pictures - 1} neighbours, which "
                "are shown again with other crops. Fewer: pairing.pictures=2"
            )
        return np.flatnonzero(fits) if self.missing == "drop" else np.arange(len(table))

    def draw(self, table: Table, anchor: int, rng: np.random.Generator) -> Sequence[int]:
        _, graph = self._open(table)
        units, similarities = graph.of(self._unit(table, anchor))
        rows = [anchor]
        for place in self._order(similarities, rng):
            row = self._picture(table, int(units[place]), rows, rng)
            if row is not None:
                rows.append(row)
            if len(rows) == self.pictures:
                return rows
        shown_again = rows[1:] or rows
        return rows + [shown_again[i % len(shown_again)] for i in range(self.pictures - len(rows))]

    def group(self, table: Table, anchor: int) -> int:
        return anchor

    def substitutes(self, table: Table, anchor: int, drawn: Sequence[int]) -> Sequence[int]:
        """Other neighbours; for the anchor itself (when not in `drawn`) first of all other pictures of its caption."""
        _, graph = self._open(table)
        own = self._unit(table, anchor)
        if anchor not in drawn:
            siblings = self._fitting(table, own, [*drawn, anchor])
            if siblings:
                return siblings
        units, _ = graph.of(own)
        return [
            row for unit in units[:_MOST_SUBSTITUTES] for row in self._fitting(table, int(unit), drawn) if row != anchor
        ]

    def relations(self, table: Table, anchors: NDArray[np.int64], rows: NDArray[np.int64]) -> Related:
        """Pairs of pictures of different anchors that show neighbours or the same caption, per `in_batch`."""
        if self.in_batch == "negative":
            return None, None
        _, graph = self._open(table)
        places = rows.reshape(-1)
        sample = np.tile(np.arange(rows.shape[1]), rows.shape[0])
        units, member = np.unique([self._unit(table, int(row)) for row in places], return_inverse=True)
        source, target = graph.among(units)
        same = np.arange(len(units))
        pairs = expand_pairs(np.concatenate([source, same]), np.concatenate([target, same]), member)
        pairs = pairs[:, sample[pairs[0]] != sample[pairs[1]]]
        if self.in_batch == "ignore":
            return None, pairs
        if table.has("family"):
            family = table.column("family")[places]
            pairs = pairs[:, family[pairs[0]] != family[pairs[1]]]
        return (pairs, np.ones(pairs.shape[1], np.float32)), None

    def _order(self, similarities: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Places of the neighbours in the order in which they are taken."""
        count = len(similarities)
        if self.sampling == "nearest":
            return np.arange(count)
        if self.sampling == "uniform":
            return rng.choice(count, min(count, _MOST_CANDIDATES), replace=False)
        # Gumbel keys, sorted, are draws from the softmax without replacement.
        return np.argsort(-(similarities / self.temperature + rng.gumbel(size=count)))

    def _picture(self, table: Table, unit: int, rows: Sequence[int], rng: np.random.Generator) -> int | None:
        """A picture of `unit` that may stand beside `rows`, uniformly."""
        members = self._members(table, unit)
        row = members[int(rng.integers(len(members)))]
        if self._beside(table, row, rows):
            return row
        fitting = [other for other in members if self._beside(table, other, rows)]
        return fitting[int(rng.integers(len(fitting)))] if fitting else None

    def _beside(self, table: Table, row: int, rows: Sequence[int]) -> bool:
        if row in rows:
            return False
        if not table.has("family"):
            return True
        family = table.column("family")
        return all(family[row] != family[other] for other in rows)

    def _fitting(self, table: Table, unit: int, rows: Sequence[int]) -> list[int]:
        return [row for row in self._members(table, unit)[:_MOST_SUBSTITUTES] if self._beside(table, row, rows)]

    def _reachable(self, table: Table, graph: NeighbourGraph) -> tuple[NDArray[Any], NDArray[Any]]:
        """For every picture: its number of neighbours, and whether one of them may be shown beside it."""
        per_unit = table.counts if self._of_captions else np.ones(len(table), np.int64)
        edges = np.repeat(graph.degrees(), per_unit)
        if not table.has("family"):
            return edges, edges > 0
        family = table.column("family").astype(np.int64)
        low, high = np.zeros((2, len(per_unit)), np.int64)
        filled = np.flatnonzero(per_unit)
        starts = (np.cumsum(per_unit) - per_unit)[filled]
        low[filled], high[filled] = np.minimum.reduceat(family, starts), np.maximum.reduceat(family, starts)
        least, greatest = (np.repeat(values, per_unit) for values in graph.reach(low, high))
        return edges, (edges > 0) & ((least != family) | (greatest != family))

    def _unit(self, table: Table, row: int) -> int:
        return table.caption_row(row) if self._of_captions else row

    def _members(self, table: Table, unit: int) -> range:
        return table.members(unit) if self._of_captions else range(unit, unit + 1)

    @property
    def _of_captions(self) -> bool:
        assert self._opened is not None
        return self._opened[1].about.unit == "caption"

    def _open(self, table: Table) -> tuple[NeighbourTable, NeighbourGraph]:
        """The neighbour table and its edges for this set, opened on first use in each process."""
        if self._opened is None or self._opened[0] != table.content_hash:
            neighbours = self._fitting_table(table)
            empty = table.counts == 0 if neighbours.about.unit == "caption" else np.zeros(0, bool)
            usable = ~empty if empty.any() else None
            graph = NeighbourGraph(neighbours, self.k, self.threshold, self.symmetric, usable)
            self._opened = (table.content_hash, neighbours, graph)
        return self._opened[1:]

    def _fitting_table(self, table: Table) -> NeighbourTable:
        """The neighbour table, if it is there and belongs to this set."""
        if self.mine:
            self._mine_missing(table)
        if self.table is None:
            raise DataError(f"pairing=neighbour needs a neighbour table, but pairing.table=null. {_command(table)}")
        place = f"pairing.table={shown(self.table)}"
        if not Path(self.table).exists():
            raise DataError(f"{place} is not there. {_command(table, self.table)}")
        neighbours = open_neighbours(self.table)
        about = neighbours.about
        rows = table.num_groups if about.unit == "caption" else len(table)
        if about.content_hash != table.content_hash or len(neighbours) != rows:
            raise DataError(
                f"{place} was mined for another set: {shown(about.table)} of {len(neighbours):,} {about.unit}s "
                f"({about.content_hash}); this run trains on {shown(table.name)} of {rows:,} ({table.content_hash}; a "
                f"filter makes another set). {_command(table)}"
            )
        if (self.k or self.pictures - 1) > neighbours.k:
            wanted = f"pairing.k={self.k}" if self.k else f"pairing.pictures={self.pictures}"
            raise DataError(
                f"{wanted}, but {place} stores {neighbours.k} neighbours of each {about.unit}. Type pairing.k="
                f"{neighbours.k} pairing.pictures={min(self.pictures, neighbours.k + 1)}, or mine with miner.k={self.k or self.pictures - 1}"
            )
        return neighbours

    def _mine_missing(self, table: Table) -> None:
        from lgrep.mining import Miner, mine  # which builds on this package

        self.table = self.table or f"neighbours/{table.name}"
        if not (Path(self.table) / "about.json").exists():
            notice(f"mining {shown(self.table)}, since it is missing (pairing.mine=true)")
            mine(table, self.table, Miner(k=max(10, self.k or self.pictures - 1)))


def _command(table: Table, folder: str | None = None) -> str:
    out = shlex.quote(folder or f"neighbours/{table.name}")
    return (
        f"Type python scripts/mine_neighbours.py data=NAME out={out} with the data settings of this run, then "
        f"pairing.table={out}; or type pairing.mine=true"
    )
