"""Numbers about pairs: distributions, equal captions, hubs, agreement of labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lgrep.data.neighbours import BLOCK, NeighbourTable, open_neighbours
from lgrep.data.pairings import NeighbourPairing, Pairing
from lgrep.data.table import Table

BINS = 30


@dataclass(frozen=True)
class Histogram:
    """Counts of values: bin i holds `edges[i] <= value < edges[i + 1]` (the last one its upper edge, too).

    Attributes:
        edges: bins + 1, ascending.
        counts: per bin.
        whole: whether every bin is one whole number, its lower edge.
    """

    edges: list[float]
    counts: list[int]
    whole: bool = False


@dataclass(frozen=True)
class Repeated:
    """Something that occurs several times.

    Attributes:
        kinds: different things that occur more than once.
        members: occurrences of these, all counted.
        examples: (what, how often), the most frequent first.
    """

    kinds: int
    members: int
    examples: list[tuple[str, int]]


@dataclass(frozen=True)
class Edges:
    """The neighbours that a pairing uses.

    Attributes:
        neighbours: the stored table.
        k: of them that are used.
        threshold: least similarity.
        symmetric: whether an edge counts backwards too.
    """

    neighbours: NeighbourTable
    k: int
    threshold: float
    symmetric: bool

    def similarity(self, table: Table, row: int, other: int) -> float | None:
        """Of two pictures, where one is a neighbour of the other (or one's caption of the other's)."""
        if self.neighbours.about.unit == "caption":
            row, other = table.caption_row(row), table.caption_row(other)
        for source, target in ((row, other), (other, row))[: 2 if self.symmetric else 1]:
            place = np.flatnonzero(self.neighbours.indices[source, : self.k] == target)
            if len(place):
                return float(self.neighbours.similarities[source, place[0]])
        return None

    def blocks(self) -> Iterable[tuple[NDArray[Any], NDArray[Any]]]:
        """Targets and similarities of all used edges, block by block."""
        for start in range(0, len(self.neighbours), BLOCK):
            rows = slice(start, start + BLOCK)
            found, scores = self.neighbours.indices[rows, : self.k], self.neighbours.similarities[rows, : self.k]
            used = (found >= 0) & (scores >= self.threshold)
            yield found[used], scores[used]


@dataclass(frozen=True)
class Hubs:
    """Captions or pictures that many others have as their neighbour.

    Attributes:
        unit: `caption` or `picture`.
        top: (unit's number, in-degree), the greatest first.
        share: of all edges, those that lead to the top ones.
        never: units that are nobody's neighbour.
        units: in all.
        edges: in all.
    """

    unit: str
    top: list[tuple[int, int]]
    share: float
    never: int
    units: int
    edges: int


@dataclass(frozen=True)
class Agreement:
    """Labels of the pictures of one anchor.

    Attributes:
        pairs: of different, labelled pictures.
        agreeing: share of them with equal labels.
        chance: that share for two labelled pictures of the table at random.
        labelled: share of the table's pictures that have a label.
    """

    pairs: int
    agreeing: float
    chance: float
    labelled: float


def histogram(values: NDArray[Any], bins: int = BINS) -> Histogram | None:
    """Of finite numbers; whole numbers of a small range get a bin each. None without any.

    >>> histogram(np.array([1, 1, 3]))
    Histogram(edges=[1.0, 2.0, 3.0, 4.0], counts=[2, 0, 1], whole=True)
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.integer) and high - low < bins:
        counts, edges = np.histogram(values, np.arange(low, high + 2))
        return Histogram([float(edge) for edge in edges], counts.tolist(), whole=True)
    counts, edges = np.histogram(values, bins)
    return Histogram([float(edge) for edge in edges], counts.tolist())


def edges_of(pairing: Pairing) -> Edges | None:
    """The neighbours that the pairing draws from; None for another kind of pairing."""
    if not isinstance(pairing, NeighbourPairing) or pairing.table is None:
        return None
    stored = open_neighbours(pairing.table)
    threshold = -np.inf if pairing.threshold is None else pairing.threshold
    return Edges(stored, min(pairing.k or stored.k, stored.k), threshold, pairing.symmetric)


def similarities(edges: Edges, bins: int = BINS) -> Histogram | None:
    """Histogram over all used edges."""
    low, high = np.inf, -np.inf
    for _, scores in edges.blocks():
        low, high = min(low, scores.min(initial=np.inf)), max(high, scores.max(initial=-np.inf))
    if low > high:
        return None
    limits = np.linspace(low, high, bins + 1) if high > low else np.array([low, np.nextafter(low, np.inf)])
    counts = sum(np.histogram(scores, limits)[0] for _, scores in edges.blocks())
    return Histogram([float(limit) for limit in limits], np.asarray(counts).tolist())


def hubs(edges: Edges, most: int = 20) -> Hubs:
    """The units that most others have as a neighbour."""
    degree = np.zeros(len(edges.neighbours), np.int64)
    for targets, _ in edges.blocks():
        degree += np.bincount(targets, minlength=len(degree))
    order = np.argsort(-degree, kind="stable")[:most]
    top = [(int(unit), int(degree[unit])) for unit in order if degree[unit] > 0]
    total = int(degree.sum())
    share = sum(count for _, count in top) / max(total, 1)
    never = int((degree == 0).sum())
    return Hubs(edges.neighbours.about.unit, top, share, never, len(degree), total)


def equal_captions(table: Table, most: int = 10) -> Repeated:
    """Captions of the table that are separate rows but have the same text."""
    counted = pc.value_counts(table.captions["text"])
    numbers = counted.field("counts").to_numpy(zero_copy_only=False)
    often = np.flatnonzero(numbers > 1)
    first = often[np.argsort(-numbers[often], kind="stable")][:most]
    texts = counted.field("values")
    return Repeated(len(often), int(numbers[often].sum()), [(_text(texts[int(i)]), int(numbers[i])) for i in first])


def label_agreement(table: Table, drawn: Sequence[Sequence[int]]) -> Agreement | None:
    """Of the pictures that were drawn for some anchors; None without labels."""
    if not table.has("label"):
        return None
    labels = table.column("label")
    known = labels[labels >= 0]
    if not len(known):
        return None
    pairs = np.array([pair for rows in drawn for pair in combinations(dict.fromkeys(rows), 2)], np.int64).reshape(-1, 2)
    first, second = labels[pairs[:, 0]], labels[pairs[:, 1]]
    valid = (first >= 0) & (second >= 0)
    share = np.bincount(known) / len(known)
    agreeing = float((first == second)[valid].mean()) if valid.any() else 0.0
    return Agreement(int(valid.sum()), agreeing, float((share**2).sum()), len(known) / len(labels))


def _text(scalar: pa.Scalar) -> str:
    buffer = scalar.as_buffer()
    return "" if buffer is None else buffer.to_pybytes().decode("utf-8", "replace")
