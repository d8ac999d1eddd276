"""Zip archives of pictures, read in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from lgrep.data.arrow_files import as_numpy
from lgrep.data.containers.index import Container
from lgrep.data.containers.patterns import list_files
from lgrep.data.containers.samples import PICTURES, Rules
from lgrep.data.containers.zip_scan import scan_zip
from lgrep.data.sources.indexed import IndexedSource
from lgrep.data.stores import ZipStore


class ZipSource(IndexedSource):
    """Pictures in zip archives, stored or deflated, with or without captions beside them.

    The directories of the archives are read once and an index is kept. A picture whose CRC is wrong counts as broken
    when it is read.

    Args:
        archives: folder, file, glob or brace pattern, or a list of these.
        captions: extensions of caption members beside the pictures (`a/1.txt` for `a/1.jpg`), the first that a picture
            has is taken; `json` means a field of a JSON member. By default none are read.
        caption_field: field of a `json` caption.
        labels: `folder`: the folder that a picture lies in is its class; `none`.
        group: which pictures are siblings: `picture` none, `caption` those of equal captions.
        index: folder for the index; by default beside the archives, or else in the user's cache folder.
        probe_share: share of the labelled pictures kept out of training for the online probes.
        max_left_out: largest share of pictures that may be left out.
    """

    setting = "data.archives"

    def __init__(
        self,
        archives: str | tuple[str, ...],
        captions: tuple[str, ...] = (),
        caption_field: str = "caption",
        labels: Literal["none", "folder"] = "none",
        group: Literal["picture", "caption"] = "picture",
        index: str | None = None,
        probe_share: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        max_left_out: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        super().__init__(index, probe_share, max_left_out)
        self.archives = archives
        self.rules = Rules(PICTURES, tuple(captions), caption_field, first_dot=False)
        self.labels = labels
        self.group = group

    def files(self) -> list[Path]:
        return list_files(self.archives, (".zip",), self.setting)

    def container(self, files: Sequence[Path]) -> Container:
        scan = partial(scan_zip, rules=self.rules, folder_labels=self.labels == "folder")
        return Container("zip", scan, _store, {**vars(self.rules), "labels": self.labels}, self.group)


def _store(files: Sequence[Path], rows: pa.Table, parts: Sequence[int]) -> ZipStore:
    return ZipStore(files, *(as_numpy(rows[name]) for name in ZipStore.per_row))
