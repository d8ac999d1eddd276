"""Mining: a set becomes vectors, candidates and a neighbour table, resumable at any moment."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lgrep.data.neighbours import NeighboursAbout, NeighbourWriter, open_neighbours
from lgrep.data.notices import notice, shown
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError, LgrepError
from lgrep.mining.edges import limit_hubs, only_mutual
from lgrep.mining.embed import Embeddings, fill, searched_rows
from lgrep.mining.encoders.base import digest
from lgrep.mining.indexes import gpus
from lgrep.mining.parts import PartSearch, unpacked
from lgrep.mining.ranges import only_one
from lgrep.mining.scope import scope_numbers
from lgrep.mining.search import Found, require_faiss
from lgrep.mining.settings import Miner
from lgrep.mining.strategy import Machine
from lgrep.mining.units import Rows
from lgrep.records import provenance

CACHE = "cache/mining"
_BLOCK = 2**17  # rows written at a time
# Settings that change how, not what: a table made with others is the same table.
_MEANS = {"device", "batch_size", "workers", "processes", "range_rows"}


def mine(table: Table, out: str | Path, miner: Miner | None = None, cache: str | Path = CACHE) -> NeighboursAbout:
    """Write the neighbour table of a set.

    The same call continues what was interrupted, whenever it was, and uses vectors of earlier calls for the same set and
    encoder again. Several processes (also on other machines that share the folders) help each other.

    Args:
        table: the set.
        out: folder of the neighbour table.
        miner: settings.
        cache: folder of vectors and of what is not finished.

    Returns:
        What was written, also in `about.json`.

    Raises:
        ConfigError: settings that cannot be, or a missing package.
        DataError: no pictures or captions, an `out` that holds something else, or a full disk.

    Example:
        >>> import tempfile
        >>> from lgrep.data.emoji import open_emoji
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     about = mine(open_emoji(), f"{folder}/emoji", Miner(k=3), f"{folder}/cache")
        >>> about.rows, about.k, about.unit
        (1564, 3, 'caption')
    """
    miner = miner or Miner()
    require_faiss()
    if not len(table):
        raise DataError(f"{table.name} has no pictures, so there is nothing to mine")
    started = time.monotonic()
    helpers = _start_helpers(table, miner, Path(cache))
    run = _Run(table, miner, Path(cache))
    try:
        about = run.finish(Path(out), started)
    except BaseException:
        for helper in helpers:
            helper.terminate()
        raise
    for helper in helpers:
        helper.join()
        if helper.exitcode:
            notice(f"a helping process ended with code {helper.exitcode}; its work was done by others")
    return about


class _Run:
    """One process's part in mining."""

    def __init__(self, table: Table, miner: Miner, cache: Path, rank: int = 0) -> None:
        self.table, self.miner, self.rank = table, miner, rank
        self.embeddings = Embeddings(table, miner, cache, rank)
        by_default = "caption" if self.embeddings.of_captions and not miner.reference_behaviour else "picture"
        self.of_captions = (by_default if miner.unit == "auto" else miner.unit) == "caption"
        wanted = {key: value for key, value in miner.model_dump().items() if key not in _MEANS}
        self.plan = digest({**wanted, "vectors": self.embeddings.folder.name, "of_captions": self.of_captions})
        self.folder = self.embeddings.folder / f"search-{self.plan}"

    def finish(self, out: Path, started: float) -> NeighboursAbout:
        with self._in_use():
            done = self._written(out)
            if done is not None:
                return done
            search, clock = self.search()
            lock = out.parent / f".{out.name}.lock"
            with only_one(lock):
                done = self._written(out)
                if done is None:
                    done = self._write(out, search, {**clock, "all": round(time.monotonic() - started, 1)})
                lock.unlink(missing_ok=True)  # whoever comes now finds the table
        return done

    def search(self) -> tuple[PartSearch, dict[str, float]]:
        """Encode and search, beside other processes."""
        begun = time.monotonic()
        self.embeddings.make(self.rank == 0)
        encoded = time.monotonic()
        units = self.embeddings.units(self.of_captions)
        rows = searched_rows(units, self.table, self.of_captions)
        part = scope_numbers(self.miner.scope, self.table, self.of_captions)
        if part is not None:
            rows = rows[part[rows] >= 0]
            part = part[rows]
        if not len(rows):
            raise DataError(f"{self.table.name}: no {self._unit} has both a vector and a place in the scope")
        self.folder.mkdir(parents=True, exist_ok=True)
        search = PartSearch(units, rows, part, self.miner, self.folder, Machine.here())
        search.file.drop_damaged()
        fill(search.file, search.search, f"{self._unit}s searched" if self.rank == 0 else None)
        return search, {
            "encoding": round(encoded - begun, 1),
            "search": round(time.monotonic() - encoded, 1),
        }

    @property
    def _unit(self) -> str:
        return "caption" if self.of_captions else "picture"

    def _written(self, out: Path) -> NeighboursAbout | None:
        """The description of this very table if it is there already."""
        if not (out / "about.json").exists():
            return None
        about = open_neighbours(out).about
        if about.provenance.get("plan") != self.plan or about.content_hash != self.table.content_hash:
            raise ConfigError(
                f"out={shown(out)} holds another neighbour table ({about.table}, {about.encoder.get('name')}, k={about.k}). "
                "Type another out=..., or remove it"
            )
        return about

    def _write(self, out: Path, search: PartSearch, clock: dict[str, float]) -> NeighboursAbout:
        count = self.table.num_groups if self.of_captions else len(self.table)
        recall = search.recall()
        about = NeighboursAbout(
            unit="caption" if self.of_captions else "picture",
            table=self.table.name,
            content_hash=self.table.content_hash,
            encoder={"name": self.embeddings.encoder.name, **_plain(self.embeddings.encoder.settings)},
            search={**search.describe(), **recall, "settings": self.miner.model_dump(mode="json")},
            recall=recall[f"recall@{self.miner.candidates}"],
            provenance={
                "plan": self.plan,
                "seconds": clock,
                "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                **provenance(),
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            },
        )
        with NeighbourWriter(out, count, self.miner.k, about) as writer:
            for rows, products in self._blocks(search, count):
                writer.append(rows, products)
        return open_neighbours(out).about

    def _blocks(self, search: PartSearch, count: int) -> Iterator[Found]:
        """Rows of the table in order, in blocks; whole at once where a choice depends on all."""
        place = np.full(count, -1, np.int64)
        place[search.order] = np.arange(len(search.order))
        whole = self.miner.max_in_degree is not None or self.miner.mutual
        step = count if whole else _BLOCK
        for start in range(0, count, step):
            rows, products = _looked_up(search, place[start : start + step])
            if self.miner.max_in_degree is not None:
                rows, products = limit_hubs(rows, products, self.miner.k, self.miner.max_in_degree)
            if self.miner.mutual:
                rows, products = only_mutual(rows, products)
            yield rows[:, : self.miner.k], np.clip(products[:, : self.miner.k], -1, 1)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """The last process that uses the folder of what is not finished removes it, when nothing went wrong."""
        path = self.folder.with_suffix(".lock")
        with path.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            shutil.rmtree(self.folder, ignore_errors=True)


def _looked_up(search: PartSearch, place: Rows) -> Found:
    rows, products = unpacked(np.asarray(search.file.array()[np.maximum(place, 0)]))
    absent = (place < 0)[:, None]
    return np.where(absent, -1, rows), np.where(absent, -np.inf, products).astype(np.float32)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _start_helpers(table: Table, miner: Miner, cache: Path) -> list[Any]:
    """Further processes that encode and search; one per GPU beside this one, or as typed."""
    devices = torch.cuda.device_count() if torch.cuda.is_available() and miner.device == "auto" else 1
    count = max(1, devices) if miner.processes == "auto" else miner.processes
    if count == 1 or miner.encoder.startswith("features/"):
        return []
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // count) if devices <= 1 else torch.get_num_threads()
    helpers = [
        context.Process(target=_help, args=(table, miner, cache, rank, threads), daemon=True)
        for rank in range(1, count)
    ]
    for helper in helpers:
        helper.start()
    return helpers


def _help(table: Table, miner: Miner, cache: Path, rank: int, threads: int) -> None:
    torch.set_num_threads(threads)
    require_faiss().omp_set_num_threads(threads)
    try:
        run = _Run(table, miner, cache, rank)
        if gpus():  # the search itself uses all of them from one process
            run.embeddings.make(progress=False)
        else:
            with run._in_use():
                run.search()
    except (LgrepError, KeyboardInterrupt) as error:
        print(f"helping process {rank}: {error}", file=sys.stderr)
        sys.exit(1)
