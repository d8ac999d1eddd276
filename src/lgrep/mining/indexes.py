"""Search through FAISS's own indexes: IVF-Flat, IVF-PQ, HNSW, and flat or IVF ones on GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lgrep.mining.lists import number_of_lists
from lgrep.mining.ranges import made_once
from lgrep.mining.search import Best, Found, require_faiss
from lgrep.mining.units import Rows, Units

Kind = Literal["flat", "ivf_flat", "ivf_pq", "hnsw"]
_ADD = 2**16  # vectors added at a time
_QUERIES = 2**14  # queries at a time
_PER_LIST = 64  # training vectors of a list
_NEIGHBOURS = 32  # HNSW's links per vector
_SPARE = 32  # candidates beyond k, for exclusions
_EFFORTS = tuple(2**power for power in range(12))


def gpus() -> int:
    """GPUs that FAISS can use; 0 with faiss-cpu."""
    faiss = require_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


class Index:
    """A FAISS index over some rows of a set; what it finds is compared again with the vectors themselves.

    Args:
        units: the set.
        rows: the rows of it that are searched, ascending.
        kind: of index.
        folder: keeps the built index, so that it is made once.
        seed: of the training sample.
    """

    def __init__(self, units: Units, rows: Rows, kind: Kind, folder: Path, seed: int = 0) -> None:
        self.units, self.rows, self.kind = units, rows, kind
        self._faiss = require_faiss()
        folder.mkdir(parents=True, exist_ok=True)
        path = made_once(folder / f"{kind}.faiss", lambda partial: self._build(partial, seed))
        self._index = self._faiss.read_index(str(path))
        self.on_gpu = kind != "hnsw" and gpus() > 0
        if self.on_gpu:
            self._index = _to_gpus(self._faiss, self._index)

    def search(self, queries: Rows, k: int, effort: int) -> Found:
        """The k nearest of each query; `effort` is the number of lists (IVF) or of candidates (HNSW) looked at."""
        self._set_effort(max(effort, k))
        parts = [self._search(queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
        rows, products = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(products)

    def effort_for(self, queries: Rows, neighbours: NDArray[np.int64], target: float) -> int:
        """The least effort that finds a share `target` of known neighbours (of those that are tried, doubling)."""
        if self.kind == "flat":
            return 1
        known = max(1, int((neighbours >= 0).sum()))
        effort = 1
        for effort in _EFFORTS:
            found = self.search(queries, neighbours.shape[1], effort)[0]
            hits = (found[:, :, None] == np.where(neighbours >= 0, neighbours, -2)[:, None, :]).sum()
            if hits >= target * known:
                break
        return int(effort)

    def _search(self, queries: Rows, k: int) -> Found:
        vectors = self.units.take(queries)
        width = min(len(self.rows), (4 * k if self.kind == "ivf_pq" else k) + _SPARE)
        _, near = self._index.search(vectors, width)
        candidates = np.where(near >= 0, self.rows[near], -1)
        best = Best(self.units, queries, k)
        best.offer(None, candidates, self._products(vectors, candidates))
        return best.found()

    def _products(self, vectors: NDArray[np.float32], candidates: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact products of queries [n, D] with their candidates [n, c]."""
        step = max(1, 2**26 // (self.units.dim * candidates.shape[1]))
        found = np.empty(candidates.shape, np.float32)
        for start in range(0, len(vectors), step):
            part = np.maximum(candidates[start : start + step], 0)
            others = self.units.take(part.reshape(-1)).reshape(*part.shape, -1)
            found[start : start + step] = np.einsum("nd,ncd->nc", vectors[start : start + step], others)
        return found

    def _set_effort(self, effort: int) -> None:
        name = {"hnsw": "efSearch", "flat": None}.get(self.kind, "nprobe")
        if name is not None:
            space = self._faiss.GpuParameterSpace() if self.on_gpu else self._faiss.ParameterSpace()
            space.set_index_parameter(self._index, name, int(effort))

    def _build(self, path: Path, seed: int) -> None:
        faiss, lists = self._faiss, number_of_lists(len(self.rows))
        index = faiss.index_factory(self.units.dim, self._factory(lists), faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            for means in (index.cp, index.pq.cp) if self.kind == "ivf_pq" else (index.cp,):
                means.min_points_per_centroid = 1  # a small set is searched all the same, without a warning
            sample = np.random.default_rng(seed).choice(
                len(self.rows), min(len(self.rows), max(_PER_LIST * lists, 2**12)), replace=False
            )
            trained = _to_gpus(faiss, index) if gpus() else index
            trained.train(self.units.take(self.rows[np.sort(sample)]))
            index = faiss.index_gpu_to_cpu(trained) if gpus() else index
        for start in range(0, len(self.rows), _ADD):
            index.add(self.units.take(self.rows[start : start + _ADD]))
        faiss.write_index(index, str(path))

    def _factory(self, lists: int) -> str:
        bytes_per_code = max(size for size in range(1, max(2, self.units.dim // 4 + 1)) if self.units.dim % size == 0)
        return {
            "flat": "Flat",
            "ivf_flat": f"IVF{lists},Flat",
            "ivf_pq": f"IVF{lists},PQ{bytes_per_code}np",  # np: without polysemous training, which takes minutes
            "hnsw": f"HNSW{_NEIGHBOURS},Flat",
        }[self.kind]


def _to_gpus(faiss: Any, index: Any) -> Any:
    """The index on all GPUs, each holding a part, in half precision, by cuVS where the build has it."""
    options = faiss.GpuMultipleClonerOptions()
    options.shard, options.useFloat16 = True, True
    if os.environ.get("LGREP_CUVS", "1") != "0" and hasattr(options, "use_cuvs"):
        options.use_cuvs = "CUVS" in faiss.get_compile_options().upper()
    return faiss.index_cpu_to_all_gpus(index, options)
