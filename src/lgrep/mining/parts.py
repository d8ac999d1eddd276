"""The search of a set in its parts: candidates of every row, in ranges that processes share."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrep.mining.indexes import Index, gpus
from lgrep.mining.lists import Lists
from lgrep.mining.ranges import RangeFile, made_once
from lgrep.mining.search import Found, exact
from lgrep.mining.settings import Miner
from lgrep.mining.strategy import Engine, Machine, choose
from lgrep.mining.units import Rows, Units

_EXACT_RANGE, _RANGE = 2**13, 2**17  # rows that a process searches at a time
_EPSILON = 1e-6  # products that differ by less are equal


class PartSearch:
    """Candidates for every row of a set, searched part by part (a whole set is one part).

    Args:
        units: the set.
        rows: the rows that are searched, ascending.
        part: part of each of `rows`; None: all are in one.
        miner: settings.
        folder: keeps what was built and found.
        machine: decides what `auto` is.
    """

    def __init__(
        self, units: Units, rows: Rows, part: Rows | None, miner: Miner, folder: Path, machine: Machine
    ) -> None:
        self.units, self.miner, self.folder = units, miner, folder
        order = np.arange(len(rows)) if part is None else np.argsort(part, kind="stable")
        self.order = rows[order]
        sorted_part = np.zeros(len(rows), np.int64) if part is None else part[order]
        self.starts = np.append(np.flatnonzero(np.diff(sorted_part, prepend=-1)), len(rows))
        chosen = [choose(miner.search, int(size), units.dim, machine) for size in np.diff(self.starts)]
        self.engines: list[Engine] = [engine for engine, _ in chosen]
        self.reason = chosen[int(np.argmax(np.diff(self.starts)))][1] if chosen else "nothing to search"
        exact_only = set(self.engines) <= {"flat"}
        self.file = RangeFile(
            folder / "found.bin", len(rows), 2 * miner.candidates, "int32", _EXACT_RANGE if exact_only else _RANGE
        )
        self._searcher = lru_cache(maxsize=1)(self._open)

    def search(self, positions: range) -> NDArray[np.int32]:
        """Candidates of `order[positions]`: rows, then their products as bits, int32 [n, 2c]."""
        found = np.empty((len(positions), 2 * self.miner.candidates), np.int32)
        for number in range(*self._parts(positions)):
            first = max(positions.start, int(self.starts[number]))
            last = min(positions.stop, int(self.starts[number + 1]))
            rows, products = self._search_part(number, self.order[first:last])
            found[first - positions.start : last - positions.start] = packed(rows, products)
        return found

    def recall(self) -> dict[str, Any]:
        """How many of the true neighbours of sampled rows were found; exact parts count as they are."""
        k, sampled, found, true = self.miner.candidates, 0, [], []
        position = np.argsort(self.order)
        for number in self._approximate():
            queries, _, products = self._sample(number)
            half = len(queries) // 2
            places = position[np.searchsorted(self.order, queries[half:], sorter=position)]
            found.append(unpacked(np.asarray(self.file.array()[places]))[1])
            true.append(products[half:])
            sampled += len(queries) - half
        if not sampled:
            return {"recall@1": 1.0, f"recall@{k}": 1.0, "recall_sample": 0, "exact": True}
        hits = np.concatenate(found), np.concatenate(true)
        return {
            "recall@1": share_found(*hits, 1),
            f"recall@{k}": share_found(*hits, k),
            "recall_sample": sampled,
            "exact": False,
        }

    def describe(self) -> dict[str, Any]:
        """The engines and their settings, for the record."""
        counted = {engine: self.engines.count(engine) for engine in sorted(set(self.engines))}
        efforts = {str(number): self._effort(number, None) for number in self._approximate()[:20]}
        return {"engines": counted, "why": self.reason, "parts": len(self.engines), "effort": efforts}

    def _approximate(self) -> list[int]:
        return [
            number
            for number, engine in enumerate(self.engines)
            if engine != "flat" and self.starts[number + 1] - self.starts[number] > 1
        ]

    def _parts(self, positions: range) -> tuple[int, int]:
        first = int(np.searchsorted(self.starts, positions.start, side="right")) - 1
        return first, int(np.searchsorted(self.starts, positions.stop, side="left"))

    def _rows(self, number: int) -> Rows:
        return self.order[self.starts[number] : self.starts[number + 1]]

    def _search_part(self, number: int, queries: Rows) -> Found:
        k, rows = self.miner.candidates, self._rows(number)
        if self.engines[number] == "flat" and not gpus():
            return exact(self.units, queries, rows, k)
        searcher = self._searcher(number)
        return searcher.search(queries, k, self._effort(number, searcher))

    def _open(self, number: int) -> Lists | Index:
        """What searches a part; lists where FAISS has no GPU, since they use that every vector is a query."""
        folder, engine, seed = self.folder / f"part-{number}", self.engines[number], self.miner.seed
        if engine == "ivf_flat" and not gpus():
            return Lists(self.units, self._rows(number), folder, seed)
        return Index(self.units, self._rows(number), engine, folder, seed)

    def _effort(self, number: int, searcher: Lists | Index | None) -> int:
        if self.miner.effort is not None:
            return self.miner.effort
        if self.engines[number] == "flat":
            return 1

        def tune(path: Path) -> None:
            queries, neighbours, _ = self._sample(number)
            half, opened = len(queries) // 2, searcher or self._searcher(number)
            tuned = opened.probes_for if isinstance(opened, Lists) else opened.effort_for
            path.write_text(json.dumps(tuned(queries[:half], neighbours[:half], self.miner.recall)), encoding="ascii")

        path = made_once(self.folder / f"part-{number}" / "effort.json", tune)
        return int(json.loads(path.read_text(encoding="ascii")))

    def _sample(self, number: int) -> tuple[Rows, NDArray[np.int64], NDArray[np.float32]]:
        """Rows of a part with their true candidates and products: the first half is for tuning, the second to measure."""
        rows, k = self._rows(number), self.miner.candidates
        rng = np.random.default_rng([self.miner.seed, number])
        queries = rng.choice(rows, min(len(rows), 2 * self.miner.sample), replace=False)

        def compare(path: Path) -> None:
            with path.open("wb") as file:
                np.save(file, packed(*exact(self.units, queries, rows, k)))

        path = made_once(self.folder / f"part-{number}" / "exact.npy", compare)
        return queries, *unpacked(np.load(path, allow_pickle=False))


def packed(rows: NDArray[np.int64], products: NDArray[np.float32]) -> NDArray[np.int32]:
    """Rows and products side by side, the products' bits as integers."""
    return np.hstack([rows.astype(np.int32), np.ascontiguousarray(products, np.float32).view(np.int32)])


def unpacked(both: NDArray[np.int32]) -> Found:
    """What was `packed`."""
    half = both.shape[1] // 2
    return both[:, :half].astype(np.int64), np.ascontiguousarray(both[:, half:]).view(np.float32)


def share_found(found: NDArray[np.float32], true: NDArray[np.float32], k: int) -> float:
    """Recall@k from the products of what was found and of the true neighbours, both [n, >= k], best first.

    What is as similar as the k-th true neighbour counts as found, since ties have no order.
    """
    known = np.isfinite(true[:, :k])
    least = np.where(known, true[:, :k], np.inf).min(axis=1, keepdims=True) - _EPSILON
    hits = np.minimum((np.isfinite(found[:, :k]) & (found[:, :k] >= least)).sum(axis=1), known.sum(axis=1))
    return float(hits.sum() / max(1, known.sum()))
