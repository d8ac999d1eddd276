"""The edges of a neighbour table that a pairing uses: k nearest, threshold, direction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrep.data.arrow_files import Shared
from lgrep.data.neighbours import BLOCK, NeighbourTable

Array = NDArray[Any]


class NeighbourGraph:
    """Neighbours of captions or pictures ("units").

    Args:
        table: the stored neighbours.
        k: edges per unit, the nearest; None: all stored.
        threshold: least similarity of an edge; None: any.
        symmetric: whether an edge also counts backwards.
        usable: units that may be a neighbour [units]; None: all.
        reverse: what `reverse` made before (spawned workers map it from a file).
    """

    def __init__(
        self,
        table: NeighbourTable,
        k: int | None,
        threshold: float | None,
        symmetric: bool,
        usable: Array | None,
        reverse: tuple[Shared, Shared] | None = None,
    ) -> None:
        self._settings = (table, k, threshold, symmetric, usable)
        self._shared = reverse
        self.indices = table.indices[:, :k]
        self.similarities = table.similarities[:, :k]
        self.threshold = -np.inf if threshold is None else threshold
        self.symmetric = symmetric
        self.usable = usable

    def of(self, unit: int) -> tuple[Array, Array]:
        """Neighbours of one unit and their similarities, best first."""
        found, scores = self.indices[unit], self.similarities[unit]
        valid = self._valid(found, scores)
        found, scores = found[valid], scores[valid]
        if not self.symmetric:
            return found, scores
        starts, sources = self.reverse()
        listing = sources[starts[unit] : starts[unit + 1]]
        listing = listing[~np.isin(listing, found)]
        back = self.similarities[listing][self.indices[listing] == unit]
        found, scores = np.concatenate([found, listing]), np.concatenate([scores, back])
        order = np.argsort(-scores, kind="stable")
        return found[order], scores[order]

    def degrees(self) -> Array:
        """Edges of every unit, int64 [units]; an edge that is stored both ways counts twice."""
        count = np.zeros(len(self.indices), np.int64)
        for start, found, ahead, back in self._blocks():
            count[start : start + len(found)] += ahead.sum(axis=1)
            if self.symmetric:
                np.add.at(count, found[back], 1)
        return count

    def reach(self, low: Array, high: Array) -> tuple[Array, Array]:
        """For every unit, the least `low` and the greatest `high` of its neighbours, int64 [units] each.

        Args:
            low, high: a number per unit [units].

        Returns:
            Where a unit has no neighbour, the least is the greatest integer and the greatest the least one.
        """
        limits = np.iinfo(np.int64)
        least, greatest = np.full(len(self.indices), limits.max), np.full(len(self.indices), limits.min)
        for start, found, ahead, back in self._blocks():
            rows = slice(start, start + len(found))
            np.minimum(least[rows], np.where(ahead, low[found], limits.max).min(axis=1), out=least[rows])
            np.maximum(greatest[rows], np.where(ahead, high[found], limits.min).max(axis=1), out=greatest[rows])
            if self.symmetric:
                sources = start + np.nonzero(back)[0]
                np.minimum.at(least, found[back], low[sources])
                np.maximum.at(greatest, found[back], high[sources])
        return least, greatest

    def among(self, units: Array) -> tuple[Array, Array]:
        """Edges between some units: positions (from, to) in `units`, which ascends and has no duplicates."""
        found = self.indices[units]
        place = np.minimum(np.searchsorted(units, found), len(units) - 1)
        hit = self._valid(found, self.similarities[units]) & (units[place] == found)
        source, column = np.nonzero(hit)
        target = place[source, column]
        if not self.symmetric:
            return source, target
        both = np.unique(np.concatenate([source * len(units) + target, target * len(units) + source]))
        return both // len(units), both % len(units)

    def _valid(self, found: Array, scores: Array) -> Array:
        valid: Array = (found >= 0) & (scores >= self.threshold)
        return valid if self.usable is None else valid & self.usable[found]

    def _blocks(self) -> Iterator[tuple[int, Array, Array, Array]]:
        """Block by block: its first unit, stored neighbours, and which of them are edges, and edges backwards."""
        for start in range(0, len(self.indices), BLOCK):
            rows = slice(start, start + BLOCK)
            found = self.indices[rows]
            near = (found >= 0) & (self.similarities[rows] >= self.threshold)
            if self.usable is None:
                yield start, found, near, near
            else:
                yield start, found, near & self.usable[found], near & self.usable[rows, None]

    def reverse(self) -> tuple[Array, Array]:
        """Units that list a unit: `sources[starts[unit] : starts[unit + 1]]`, ascending; made on the first call.

        8 bytes per unit and 4 per edge (0.6 GB for 12 million units of 10 edges). Forked workers share them as they
        are, spawned ones through a temporary file.
        """
        if self._shared is None:
            starts, sources = self._counting_sort()
            self._shared = Shared(starts), Shared(sources)
        return self._shared[0].value, self._shared[1].value

    def __reduce__(self) -> Any:
        return NeighbourGraph, (*self._settings, self._shared)

    def _counting_sort(self) -> tuple[Array, Array]:
        starts = np.zeros(len(self.indices) + 1, np.int64)
        for _, found, _, back in self._blocks():
            np.add.at(starts, found[back] + 1, 1)
        np.cumsum(starts, out=starts)
        sources = np.empty(starts[-1], np.int32)
        cursor = starts[:-1].copy()
        for start, found, _, back in self._blocks():
            # Both numbers in one key: sorting it is several times faster than an argsort of the targets.
            keys = np.sort((found[back].astype(np.int64) << 32) | (start + np.nonzero(back)[0]))
            targets = keys >> 32
            first = np.flatnonzero(np.diff(targets, prepend=-1))
            lengths = np.diff(first, append=len(targets))
            rank = np.arange(len(targets)) - np.repeat(first, lengths)
            sources[cursor[targets] + rank] = keys & 0xFFFFFFFF
            cursor[targets[first]] += lengths
        return starts, sources


def expand_pairs(source: Array, target: Array, member: Array) -> Array:
    """Pairs of places from pairs of units: every place of the one with every place of the other.

    Args:
        source, target: units.
        member: unit of every place; units are 0, 1, ... and each has a place.

    Returns:
        [2, E], in ascending order.

    >>> expand_pairs(np.array([0]), np.array([1]), np.array([1, 0, 1])).tolist()
    [[1, 1], [0, 2]]
    """
    order = np.argsort(member, kind="stable")
    counts = np.bincount(member)
    starts = np.cumsum(counts) - counts
    sizes = counts[source] * counts[target]
    edge = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(edge)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = counts[target][edge]
    pairs = np.stack(
        [order[starts[source][edge] + within // width], order[starts[target][edge] + within % width]]
    ).astype(np.int64)
    return pairs[:, np.lexsort(pairs[::-1])]
