"""A picture set in the project's own format."""

from __future__ import annotations

from pathlib import Path

from lgrep.data.probe import ProbeTables
from lgrep.data.table import Table, open_set
from lgrep.errors import DataError


class ShardSource:
    """A folder written by `lgrep.data.shards.write_set` (real or generated pictures).

    Args:
        root: the folder with `set.json`.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def training(self) -> Table:
        if not Path(self.root).is_dir():
            raise DataError(f"data.root={self.root} is no folder. Point data.root=... to a folder with a set.json")
        return open_set(self.root)

    def probe(self) -> ProbeTables | None:
        return None
