"""Picture sources: each opens its training table and, where labels exist, tables for online probes.

`configs/data/*.yaml` names a source by `_target_`; one in a user's own package works the same.
"""

from __future__ import annotations

from typing import Protocol

from lgrep.data.probe import ProbeTables
from lgrep.data.sources.caption_folders import CaptionFolders
from lgrep.data.sources.clip_rocket import ClipRocketSource
from lgrep.data.sources.emoji import EmojiSource
from lgrep.data.sources.folder import FolderSource
from lgrep.data.sources.imagenet import ImageNetSource
from lgrep.data.sources.lgssl import LgsslSource
from lgrep.data.sources.parquet import ParquetSource
from lgrep.data.sources.published import PublishedSchedule
from lgrep.data.sources.redcaps import RedCapsSource
from lgrep.data.sources.shards import ShardSource
from lgrep.data.sources.torchvision_sets import TorchvisionSource
from lgrep.data.sources.webdataset import WebDataset
from lgrep.data.sources.zips import ZipSource
from lgrep.data.table import Table


class Source(Protocol):
    """Where pictures and captions come from.

    A source may have an attribute `schedules` (name -> `PublishedSchedule`), which `duration=NAME` refers to.
    """

    def training(self) -> Table:
        """The pictures to train on.

        Raises:
            DataError: missing or unreadable data; says what is missing and which override points to it.
        """
        ...

    def probe(self) -> ProbeTables | None:
        """Labelled pictures for online probes, or None."""
        ...


__all__ = [
    "CaptionFolders",
    "ClipRocketSource",
    "EmojiSource",
    "FolderSource",
    "ImageNetSource",
    "LgsslSource",
    "ParquetSource",
    "PublishedSchedule",
    "RedCapsSource",
    "ShardSource",
    "Source",
    "TorchvisionSource",
    "WebDataset",
    "ZipSource",
]
