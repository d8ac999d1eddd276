"""Choosing among mined candidates: limits on hubs, mutual neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lgrep.mining.search import Found

_BLOCK = 2**18


def limit_hubs(rows: NDArray[np.int64], products: NDArray[np.float32], k: int, most: int) -> Found:
    """At most k neighbours per row such that nobody is the neighbour of more than `most`.

    Rows ask for their candidates in order, and who is asked too often keeps the most similar (ties: lower rows): deferred
    acceptance (Gale and Shapley 1962), which has one result whatever the order of asking.

    Args:
        rows: candidates int [N, c], best first, -1 = none.
        products: their similarities [N, c].
        k: neighbours wanted, at most c.
        most: limit of the in-degree.

    Returns:
        Neighbours [N, k], best first, and similarities.
    """
    some = rows >= 0
    untried, held = some.copy(), np.zeros_like(some)
    while True:
        wanted = k - held.sum(axis=1, keepdims=True)
        asking = untried & (np.cumsum(untried, axis=1) <= wanted)
        if not asking.any():
            break
        untried &= ~asking
        held |= asking
        source, place = np.nonzero(held)
        target, product = rows[source, place], products[source, place]
        order = np.lexsort((source, -product, target))
        starts = np.searchsorted(target[order], np.arange(len(rows)))
        rank = np.arange(len(order)) - starts[target[order]]
        refused = order[rank >= most]
        held[source[refused], place[refused]] = False
    return compacted(rows, products, held, k)


def only_mutual(rows: NDArray[np.int64], products: NDArray[np.float32]) -> Found:
    """Of every row the neighbours that list it too."""
    count = len(rows)
    source, place = np.nonzero(rows >= 0)
    edges = np.sort(source * count + rows[source, place])
    kept = np.zeros(rows.shape, bool)
    for start in range(0, len(source), _BLOCK):
        part = slice(start, start + _BLOCK)
        back = rows[source[part], place[part]] * count + source[part]
        found = np.minimum(np.searchsorted(edges, back), max(0, len(edges) - 1))
        kept[source[part], place[part]] = edges[found] == back
    return compacted(rows, products, kept, rows.shape[1])


def compacted(rows: NDArray[np.int64], products: NDArray[np.float32], kept: NDArray[np.bool_], k: int) -> Found:
    """The first k of what is kept, -1 (and -inf) after it."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    there = np.take_along_axis(kept, order, axis=1)
    return (
        np.where(there, np.take_along_axis(rows, order, axis=1), -1),
        np.where(there, np.take_along_axis(products, order, axis=1), -np.inf).astype(np.float32),
    )
