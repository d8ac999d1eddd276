"""What can be said about mined neighbours by numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lgrep.data.inspection.statistics import Edges, Histogram, Hubs, histogram, hubs, similarities
from lgrep.data.neighbours import NeighbourTable
from lgrep.data.table import Table
from lgrep.errors import DataError
from lgrep.mining.embed import Embeddings
from lgrep.mining.search import BLOCK, nearest, require_faiss

LEVELS = (0.9, 0.95, 0.98, 0.99, 0.999)
_EXAMPLES = 20

Pair = tuple[str, str, float]  # two captions and their similarity


@dataclass(frozen=True)
class Leakage:
    """Held-out captions beside the nearest captions of the set that is mined.

    Attributes:
        name: of the held-out set.
        rows: its captions.
        same_ids: pictures whose id is in both sets.
        same_texts: captions whose text is in both.
        shares: level -> share of the held-out captions with a caption of at least that similarity in the mined set.
        nearest: histogram of the similarity to the nearest.
        examples: the most similar pairs: held out, mined.
    """

    name: str
    rows: int
    same_ids: int
    same_texts: int
    shares: dict[float, float]
    nearest: Histogram | None
    examples: list[Pair]


@dataclass(frozen=True)
class Audit:
    """Numbers about a neighbour table.

    Attributes:
        rows: captions or pictures.
        without: of them, those that have no neighbour.
        similarity: of all edges; None without edges.
        first: of the nearest neighbours alone.
        by_rank: mean similarity of the 1st, 2nd, ... neighbour.
        duplicates: level -> share of rows whose nearest neighbour is at least that similar.
        most_similar: the most similar pairs.
        in_degree: how often rows are someone's neighbour.
        hubs: the most chosen.
        hub_texts: their captions.
        labels: for k = 1, 2, ...: share of the first k neighbours with the row's label; None without labels.
        chance: that share for a random row.
        leakage: beside held-out captions; None when there are none.
    """

    rows: int
    without: int
    similarity: Histogram | None
    first: Histogram | None
    by_rank: list[float]
    duplicates: dict[float, float]
    most_similar: list[Pair]
    in_degree: Histogram | None
    hubs: Hubs
    hub_texts: list[str]
    labels: list[float] | None
    chance: float
    leakage: Leakage | None = None


def audit(table: Table, neighbours: NeighbourTable, held_out: Leakage | None = None) -> Audit:
    """Look at mined neighbours.

    Args:
        table: the set that was mined.
        neighbours: the table.
        held_out: from `leakage`.

    Raises:
        DataError: the table is of another set, or damaged.
    """
    about = neighbours.about
    if about.content_hash != table.content_hash:
        raise DataError(
            f"{neighbours.path} was mined for {about.table} ({about.content_hash}), not for {table.name} "
            f"({table.content_hash}). Type the data settings that it was mined with"
        )
    neighbours.check()
    edges = Edges(neighbours, neighbours.k, -np.inf, symmetric=False)
    first = np.asarray(neighbours.similarities[:, 0])
    some, top = np.isfinite(first), hubs(edges)
    order = np.argsort(-first, kind="stable")[: 2 * _EXAMPLES]
    degree = np.bincount(np.concatenate([found for found, _ in edges.blocks()]), minlength=len(neighbours))
    labels, chance = _labels(table, neighbours)
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(neighbours.similarities)
        ranks = np.where(finite, neighbours.similarities, 0).sum(0) / np.maximum(finite.sum(0), 1)
    return Audit(
        rows=len(neighbours),
        without=int((~some).sum()),
        similarity=similarities(edges),
        first=histogram(first),
        by_rank=[float(value) for value in ranks],
        duplicates={level: float((first >= level).mean()) for level in LEVELS},
        most_similar=_distinct(
            [
                (text_of(table, about.unit, row), text_of(table, about.unit, neighbours.indices[row, 0]), first[row])
                for row in order
                if some[row]
            ]
        ),
        in_degree=histogram(degree),
        hubs=top,
        hub_texts=[text_of(table, about.unit, unit) for unit, _ in top.top],
        labels=labels,
        chance=chance,
        leakage=held_out,
    )


def leakage(mined: Embeddings, held_out: Embeddings) -> Leakage:
    """Search every held-out caption (or picture) among those that are mined, exactly.

    Args:
        mined: vectors of the mined set.
        held_out: vectors of the other set by the same encoder.
    """
    queries = held_out.units(held_out.of_captions)
    database = mined.units(mined.of_captions)
    best = np.full(len(queries), -np.inf, np.float32)
    where = np.full(len(queries), -1, np.int64)
    for start in range(0, len(queries), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(queries)))
        heap = require_faiss().ResultHeap(len(rows), 1, keep_max=True)
        vectors = queries.take(rows)
        for first in range(0, len(database), BLOCK):
            block = np.arange(first, min(first + BLOCK, len(database)))
            near, products = nearest(vectors, database.take(block), 1)
            heap.add_result(products, near + first)
        heap.finalize()
        best[rows], where[rows] = heap.D[:, 0], heap.I[:, 0]
    order = np.argsort(-best, kind="stable")[:_EXAMPLES]
    unit = "caption" if held_out.of_captions else "picture"
    return Leakage(
        name=held_out.table.name,
        rows=len(queries),
        same_ids=_shared(held_out.table.pictures["id"], mined.table.pictures["id"]),
        same_texts=_shared(held_out.table.captions["text"], mined.table.captions["text"]),
        shares={level: float((best >= level).mean()) for level in LEVELS},
        nearest=histogram(best),
        examples=[
            (text_of(held_out.table, unit, row), text_of(mined.table, unit, where[row]), float(best[row]))
            for row in order
        ],
    )


def label_agreement(table: Table, neighbours: NeighbourTable) -> list[float] | None:
    """For k = 1, 2, ...: share of the first k neighbours that have the row's label; None without labels."""
    return _labels(table, neighbours)[0]


def text_of(table: Table, unit: str, number: int | np.integer[Any]) -> str:
    """Caption of a row, with the picture's id where a row is a picture."""
    if unit == "caption":
        return str(table.captions["text"][int(number)].as_py())
    return f"{table.caption(int(number))} [{table.identity(int(number))}]"


def _labels(table: Table, neighbours: NeighbourTable) -> tuple[list[float] | None, float]:
    if not table.has("label"):
        return None, 0.0
    label = table.column("label").astype(np.int64)
    if neighbours.about.unit == "caption":
        of_caption = np.full(table.num_groups, -1, np.int64)
        of_caption[table.group[::-1]] = label[::-1]  # the first picture's
        label = of_caption
    known = label[label >= 0]
    if not len(known):
        return None, 0.0
    found = np.asarray(neighbours.indices)
    usable = (found >= 0) & (label[found] >= 0) & (label >= 0)[:, None]
    equal = (usable & (label[found] == label[:, None])).sum(0).cumsum()
    shares: NDArray[np.float64] = equal / np.maximum(usable.sum(0).cumsum(), 1)
    return [float(share) for share in shares], float(((np.bincount(known) / len(known)) ** 2).sum())


def _distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs that are not another one turned round."""
    seen: set[frozenset[str]] = set()
    kept = []
    for one, other, score in pairs:
        if frozenset((one, other)) not in seen:
            seen.add(frozenset((one, other)))
            kept.append((one, other, float(score)))
    return kept[:_EXAMPLES]


def _shared(column: pa.ChunkedArray, others: pa.ChunkedArray) -> int:
    others = others.cast(column.type) if others.type != column.type else others
    return int(pc.sum(pc.is_in(column, value_set=pc.unique(others))).as_py() or 0)
