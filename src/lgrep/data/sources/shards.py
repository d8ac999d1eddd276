"""A picture set in the project's own format."""

from __future__ import annotations

from lgrep.data.probe import ProbeTables
from lgrep.data.shards import verify_set
from lgrep.data.sources.listing import check_folder
from lgrep.data.table import Table, open_set


class ShardSource:
    """A folder written by `lgrep.data.shards.write_set` (real or generated pictures).

    Args:
        root: the folder with `set.json`.
        verify: read the whole set first and compare it with its content hash.
    """

    def __init__(self, root: str, verify: bool = False) -> None:
        self.root = root
        self.verify = verify

    def training(self) -> Table:
        folder = check_folder(self.root, "data.root", "with a set.json")
        if self.verify:
            verify_set(folder)
        return open_set(folder)

    def probe(self) -> ProbeTables | None:
        return None
