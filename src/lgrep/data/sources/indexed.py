"""What sources of pictures in containers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lgrep.data.arrow_files import as_numpy
from lgrep.data.containers.index import Container, Index, open_index
from lgrep.data.filters import keyed_hash
from lgrep.data.notices import examples, notice, shown
from lgrep.data.probe import ProbeTables, split_for_probes
from lgrep.data.stores import ShardStore
from lgrep.data.table import PLACE, Table
from lgrep.errors import DataError


class IndexedSource:
    """Pictures in files that are indexed once.

    Args:
        cache: folder for the index, or None.
        probe_share: share of the labelled pictures kept out of training for the online probes.
        max_left_out: largest share of pictures that may be left out.
    """

    setting = "data.shards"  # where the files are given

    def __init__(self, cache: str | None, probe_share: float, max_left_out: float) -> None:
        self.cache = cache
        self.probe_share = probe_share
        self.max_left_out = max_left_out
        self._opened: Index | None = None

    def files(self) -> list[Path]:
        """The containers."""
        raise NotImplementedError

    def container(self, files: Sequence[Path]) -> Container:
        """How they are read."""
        raise NotImplementedError

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """(picture, reason) of the first pictures that cannot be used."""
        return self._open().examples

    def training(self) -> Table:
        table = self._open().table
        held_out = self._held_out(table)
        return table.select(np.flatnonzero(~held_out)) if held_out.any() else table

    def probe(self) -> ProbeTables | None:
        index = self._open()
        held_out = self._held_out(index.table)
        if not index.class_names or self.probe_share == 0:
            return None
        gallery = (index.table.column("label") >= 0) & ~held_out
        return split_for_probes(index.table, held_out, gallery, index.class_names, self.probe_share)

    def _open(self) -> Index:
        if self._opened is None:
            files = self.files()
            name = shown(files[0].absolute().parent.name if len(files) > 1 else files[0].stem)
            index = open_index(files, self.container(files), name, self.cache)
            self._check(index)
            self._opened = index
        return self._opened

    def _check(self, index: Index) -> None:
        """Say what is left out, or refuse."""
        for line in index.damage[:3]:
            notice(f"{line}; what comes before is used")
        if len(index.damage) > 3:
            notice(f"{len(index.damage) - 3:,} more files are damaged")
        named = examples(index.examples) if index.examples else "; ".join(index.damage[:2])
        if not len(index.table):
            found = named or f"it holds {', '.join(index.extensions[:8]) or 'nothing'}"
            raise DataError(
                f"{self.setting} holds no picture that can be used: {found}. Point {self.setting} elsewhere"
            )
        if index.left_out > self.max_left_out * index.found:
            raise DataError(
                f"{self.setting}: {index.left_out:,} of {index.found:,} pictures cannot be used, more than "
                f"data.max_left_out={self.max_left_out}: {named}. Mend them, or type data.max_left_out=1 to leave them out"
            )
        if index.left_out:
            notice(f"{index.left_out:,} of {index.found:,} pictures in {self.setting} are left out: {named}")

    def _held_out(self, table: Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """A picture's fate depends on its name alone, so that adding pictures moves no other one."""
        if not table.has("label") or self.probe_share == 0:
            return np.zeros(len(table), bool)
        drawn = keyed_hash(table.pictures["id"], 0) < np.uint64(int(self.probe_share * 2**64))
        return drawn & (table.column("label") >= 0)


def byte_ranges(files: Sequence[Path], rows: pa.Table, parts: Sequence[int]) -> ShardStore:
    """The store of pictures that lie in the files as they are; see `Container.store`."""
    return ShardStore(files, *(as_numpy(rows[name]) for name in PLACE))
