"""A look at a few files before a run of hours relies on all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lgrep.data.notices import shown
from lgrep.data.stores import ArchiveStore
from lgrep.data.table import Table
from lgrep.errors import DataError

_LOOKED_FOR = 16


def check_some_exist(table: Table, root: Path, metadata: Path) -> None:
    """Refuse a folder that has none of a few pictures; single missing ones are replaced during training.

    Args:
        table: its store reads files or members of archives below `root`.
        root: folder of the pictures.
        metadata: file that names the pictures, for the message.

    Raises:
        DataError: names the first that is missing.
    """
    rows = np.unique(np.linspace(0, len(table) - 1, _LOOKED_FOR).astype(np.int64))
    files = [_file(table, int(row)) for row in rows]
    if not any(file.is_file() for file in files):
        raise DataError(
            f"data.root={shown(root)} holds none of {len(files)} pictures of {shown(metadata)} that were looked for, "
            f"e.g. {shown(files[0])}. Point data.root=DIR to the folder that these names are relative to"
        )


def _file(table: Table, row: int) -> Path:
    store = table.store
    return store.archives[int(store.archive[row])] if isinstance(store, ArchiveStore) else Path(store.locate(row))
