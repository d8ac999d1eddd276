"""Nearest neighbours by FAISS: exact search over blocks of a set, with exclusions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrep.errors import ConfigError
from lgrep.mining.units import Rows, Units

Found = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows [n, k], best first, -1 = none, and their products
BLOCK = 2**16  # vectors of the set that are compared with all queries at a time


def require_faiss() -> Any:
    """The module `faiss`, which two exclusive extras install.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "neighbour search needs FAISS. Type pip install 'lgrep[cpu]', or, on a machine with a CUDA GPU, "
            "pip install 'lgrep[gpu]' (not both: they install the same module)"
        ) from error
    return faiss


def nearest(
    queries: NDArray[np.float32], database: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exact nearest neighbours by inner product.

    Args:
        queries: float32 [M, D].
        database: float32 [N, D]; unit rows make the product a cosine.
        k: neighbours per query, at most N.

    Returns:
        Rows of the database [M, k], nearest first, and their products [M, k].

    Raises:
        ConfigError: FAISS is not installed.
        ValueError: k is not in 1..N, or the dimensions differ.
    """
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(f"expected [M, D] and [N, D], got {queries.shape} and {database.shape}")
    if not 1 <= k <= len(database):
        raise ValueError(f"k={k} is not in 1..{len(database)}")
    faiss = require_faiss()
    queries, database = (np.ascontiguousarray(vectors, dtype=np.float32) for vectors in (queries, database))
    products, rows = faiss.knn(queries, database, k, metric=faiss.METRIC_INNER_PRODUCT)
    return rows, products


class Best:
    """The k best of all candidates that were shown for some queries.

    Args:
        units: the set, whose exclusions hold.
        queries: rows of the queries.
        k: how many are kept.
    """

    def __init__(self, units: Units, queries: Rows, k: int) -> None:
        self.units, self.k = units, k
        self.labels = units.labels(queries)
        self._heap = require_faiss().ResultHeap(len(queries), k, keep_max=True)

    def show(self, places: NDArray[np.int64] | None, queries: NDArray[np.float32], rows: Rows) -> None:
        """Compare some queries with some of the set.

        Args:
            places: which of the queries, int64 [m]; None: all.
            queries: their vectors [m, D].
            rows: of the set.
        """
        if len(rows):
            labels = self.labels if places is None else self.labels[places]
            self._show(places, queries, labels, rows, self.units.take(rows), self.k + 1)

    def offer(self, places: NDArray[np.int64] | None, rows: NDArray[np.int64], products: NDArray[np.float32]) -> None:
        """Candidates [m, c] that were found elsewhere; -1 and what is excluded are passed over."""
        labels = self.labels if places is None else self.labels[places]
        self._add(places, *self._allowed(labels, rows, products)[:2])

    def found(self) -> Found:
        """The best, in order."""
        self._heap.finalize()
        rows = np.asarray(self._heap.I)
        return rows, np.where(rows >= 0, self._heap.D, -np.inf).astype(np.float32)

    def _show(
        self,
        places: NDArray[np.int64] | None,
        queries: NDArray[np.float32],
        labels: Rows,
        rows: Rows,
        vectors: NDArray[np.float32],
        width: int,
    ) -> None:
        width = min(width, len(rows))
        near, products = nearest(queries, vectors, width)
        candidates, products, kept = self._allowed(labels, rows[near], products)
        # Where exclusions took so many that better ones may be missing, look deeper.
        short = np.flatnonzero(kept < self.k) if width < len(rows) else np.zeros(0, np.int64)
        if len(short):
            candidates[short] = -1
            deeper = short if places is None else places[short]
            self._show(deeper, queries[short], labels[short], rows, vectors, 4 * width)
        self._add(places, candidates, products)

    def _allowed(
        self, labels: Rows, rows: NDArray[np.int64], products: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Candidates with -1 in place of what is excluded, and how many are left of each query."""
        allowed = (rows >= 0) & (self.units.labels(rows) != labels[:, None])
        if self.units.ceiling is not None:
            allowed &= products <= self.units.ceiling
        return np.where(allowed, rows, -1), products, allowed.sum(axis=1)

    def _add(self, places: NDArray[np.int64] | None, rows: NDArray[np.int64], products: NDArray[np.float32]) -> None:
        scores = np.where(rows >= 0, products, -np.inf).astype(np.float32)
        if places is None:
            self._heap.add_result(scores, np.ascontiguousarray(rows))
        else:
            self._heap.add_result_subset(np.ascontiguousarray(places), scores, np.ascontiguousarray(rows))


def exact(units: Units, queries: Rows, rows: Rows, k: int) -> Found:
    """The k nearest of `rows` for each of `queries`, by comparing all with all.

    Memory: one block of vectors, the queries' and the results; none grows with the set.

    Args:
        units: the set and its exclusions.
        queries: rows of the set, int64 [n].
        rows: the rows among which neighbours are, int64 [m].
        k: how many.
    """
    best = Best(units, queries, k)
    vectors = units.take(queries)
    for start in range(0, len(rows), BLOCK):
        best.show(None, vectors, rows[start : start + BLOCK])
    return best.found()
