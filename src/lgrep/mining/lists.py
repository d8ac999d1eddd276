"""Search of a whole set in itself through inverted lists (IVF-Flat), list by list.

FAISS's IVF index takes query by query and reads a few lists for each. Here every vector is also a query, so that all
queries of a list meet it together in one matrix product; the lists hold row numbers only, and vectors stay on disk.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lgrep.mining.ranges import RangeFile, made_once
from lgrep.mining.search import Best, Found, nearest, require_faiss
from lgrep.mining.units import Rows, Units

_PER_LIST = 64  # training vectors of a list
_ITERATIONS = 10
_ASSIGN = 2**16  # rows assigned to lists at a time


def number_of_lists(rows: int) -> int:
    """Lists for a set: finding a query's lists then costs about as much as searching them."""
    return max(1, min(round(2 * math.sqrt(rows)), rows // 39))


class Lists:
    """The rows of a set in lists, each around a centroid.

    Args:
        units: the set.
        rows: the rows of it that are searched, ascending.
        folder: keeps the centroids and each row's list, so that they are made once.
        seed: of the training sample.
    """

    def __init__(self, units: Units, rows: Rows, folder: Path, seed: int = 0) -> None:
        self.units, self.rows = units, rows
        self.count = number_of_lists(len(rows))
        folder.mkdir(parents=True, exist_ok=True)
        path = made_once(folder / "centroids.npy", lambda partial: self._train(partial, seed))
        self.centroids: NDArray[np.float32] = np.load(path, allow_pickle=False)
        homes = RangeFile(folder / "lists.bin", len(rows), 1, "int32", _ASSIGN)
        homes.drop_damaged()
        homes.fill(lambda part: self.nearest_lists(rows[part.start : part.stop], 1))
        self.home = np.asarray(homes.array()[:, 0])
        self._order = np.argsort(self.home, kind="stable")
        self._ends = np.searchsorted(self.home[self._order], np.arange(self.count + 1))

    def members(self, number: int) -> Rows:
        """Rows of the set in a list."""
        return self.rows[self._order[self._ends[number] : self._ends[number + 1]]]

    def nearest_lists(self, rows: Rows, count: int) -> NDArray[np.int64]:
        """The lists with the nearest centroids, [n, count]."""
        parts = [
            nearest(self.units.take(rows[start : start + _ASSIGN]), self.centroids, min(count, self.count))[0]
            for start in range(0, len(rows), _ASSIGN)
        ]
        return np.concatenate(parts)

    def probes_for(self, queries: Rows, neighbours: NDArray[np.int64], target: float) -> int:
        """The fewest lists in which a share `target` of known neighbours is found.

        Args:
            queries: rows of the set [n].
            neighbours: their true neighbours [n, k], -1 = none.
            target: share.
        """
        ranked = self.nearest_lists(queries, self.count)
        place = np.empty_like(ranked)
        np.put_along_axis(place, ranked, np.broadcast_to(np.arange(ranked.shape[1]), ranked.shape), axis=1)
        known = neighbours >= 0
        homes = self.home[np.searchsorted(self.rows, np.where(known, neighbours, self.rows[0]))]
        needed = np.sort(np.take_along_axis(place, homes, axis=1)[known])
        if not len(needed):
            return 1
        return int(needed[min(len(needed) - 1, int(np.ceil(target * len(needed))))]) + 1

    def search(self, queries: Rows, k: int, probes: int) -> Found:
        """The k nearest of each query within its `probes` nearest lists."""
        best = Best(self.units, queries, k)
        vectors = self.units.take(queries)
        probed = self.nearest_lists(queries, probes)
        asked = np.argsort(probed, axis=None, kind="stable")
        ends = np.searchsorted(probed.reshape(-1)[asked], np.arange(self.count + 1))
        for number in np.flatnonzero(np.diff(ends)):
            places = asked[ends[number] : ends[number + 1]] // probed.shape[1]
            best.show(places, vectors[places], self.members(int(number)))
        return best.found()

    def _train(self, path: Path, seed: int) -> None:
        faiss = require_faiss()
        wanted = min(len(self.rows), _PER_LIST * self.count)
        sample = np.random.default_rng(seed).choice(len(self.rows), wanted, replace=False)
        vectors = self.units.take(self.rows[np.sort(sample)])
        means = faiss.Kmeans(
            self.units.dim, self.count, niter=_ITERATIONS, spherical=True, seed=seed + 1, min_points_per_centroid=1
        )
        means.train(vectors)
        with path.open("wb") as file:
            np.save(file, means.centroids)
