"""Where data sets are, and that one of them is not there."""

from __future__ import annotations

import os
from pathlib import Path

from lgrep.errors import DataError

ROOT_VARIABLE, ROOT = "LGREP_DATA", "datasets"


class MissingDataset(DataError):
    """The set is not there; a runner of several skips it. The message, one line, says how to get it."""


def data_root(root: str | None) -> Path:
    """Folder of the data sets: as given, or the environment's LGREP_DATA, or ./datasets."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or ROOT).expanduser()
