"""Tar shards in the WebDataset layout, read in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lgrep.data.containers.index import Container
from lgrep.data.containers.patterns import list_files
from lgrep.data.containers.samples import PICTURES, Rules
from lgrep.data.containers.tars import scan_tar
from lgrep.data.sources.indexed import IndexedSource, byte_ranges

Share = Annotated[float, Field(ge=0, lt=1)]


class WebDataset(IndexedSource):
    """Uncompressed tar files; members that share a path up to the first dot of their name are one sample.

    The headers are read once and an index is kept, so that any order of pictures is possible; pictures are read where
    they lie. Samples without a picture, or without a caption where others have one, are left out and counted.

    Args:
        shards: folder, file, glob or brace pattern such as `cc12m-{0000..1099}.tar`, or a list of these.
        captions: extensions of caption members, the first that a sample has is taken; `json` means a field of a JSON
            member. An empty list: none are read.
        caption_field: field of a `json` caption.
        labels: extension of the class: `cls` (a number or a name), `json`, or none.
        label_field: field of a `json` class.
        pictures: extensions of picture members, likewise.
        group: which pictures are siblings: `picture` none, `caption` those of equal captions.
        index: folder for the index; by default beside the shards, or else in the user's cache folder.
        probe_share: share of the labelled pictures kept out of training for the online probes.
        max_left_out: largest share of samples that may be left out.
    """

    def __init__(
        self,
        shards: str | tuple[str, ...],
        captions: tuple[str, ...] = ("txt", "text", "caption", "json"),
        caption_field: str = "caption",
        labels: str | None = None,
        label_field: str = "label",
        pictures: tuple[str, ...] = PICTURES,
        group: Literal["picture", "caption"] = "picture",
        index: str | None = None,
        probe_share: Share = 0.1,
        max_left_out: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        super().__init__(index, probe_share, max_left_out)
        self.shards = shards
        self.rules = Rules(tuple(pictures), tuple(captions), caption_field, labels, label_field)
        self.group = group

    def files(self) -> list[Path]:
        return list_files(self.shards, (".tar",), self.setting)

    def container(self, files: Sequence[Path]) -> Container:
        return Container("tar", partial(scan_tar, rules=self.rules), byte_ranges, vars(self.rules), self.group)
