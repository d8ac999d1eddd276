"""What a generated set is: everything that decides its bytes, and the folder that is named by it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from lgrep.data.arrow_files import map_arrow, write_arrow
from lgrep.data.preparing.shards import written_whole
from lgrep.errors import DataError
from lgrep.generation.captions import Captions
from lgrep.generation.claims import machine
from lgrep.generation.painter import digest

FORMAT = 1
PLAN, WORK = "plan.json", "work"  # `work` holds what is needed to go on, and to add pictures later


@dataclass(frozen=True)
class Shard:
    """One picture of each of some captions.

    Attributes:
        block: number of the block of captions.
        index: number of the picture among those of its caption.
        captions: rows of the captions.
    """

    block: int
    index: int
    captions: range

    @property
    def name(self) -> str:
        """Of its files."""
        return f"shard-{self.block:05d}-{self.index:04d}"


@dataclass(frozen=True)
class Plan:
    """Identity of a set.

    Attributes:
        name: of the set; not part of the identity.
        captions: how many.
        captions_hash: over ids and texts.
        seed: of the noise.
        batch_size: captions drawn at once.
        shard_captions: captions of a shard.
        painter: what the pipeline says of itself (`Painter.facts`).
        settings: the rest (`Generator.facts`).
    """

    name: str
    captions: int
    captions_hash: str
    seed: int
    batch_size: int
    shard_captions: int
    painter: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """12 hexadecimal digits over all that decides the bytes of the shards."""
        return digest({"format": FORMAT, **{key: value for key, value in asdict(self).items() if key != "name"}})[:12]

    def shards(self, images: int) -> list[Shard]:
        """All shards of that many pictures per caption, in the order in which they are made."""
        size, count = self.shard_captions, self.captions
        blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return [Shard(number, index, block) for index in range(images) for number, block in enumerate(blocks)]

    def write(self, folder: Path, captions: Captions) -> None:
        """Put the plan and its captions into the set's folder, whole, unless they are there."""
        work = work_folder(folder)
        if (folder / PLAN).is_file() and self._there(folder):
            return
        with written_whole(folder / WORK / "captions.arrow", work) as partial:
            write_arrow(partial, captions.table)
        with written_whole(folder / PLAN, work) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _there(self, folder: Path) -> bool:
        """Whether this very plan and its captions are there."""
        if read_plan(folder).identity != self.identity:
            raise DataError(f"{folder / PLAN} was changed by hand. Remove {folder}, or type another out=DIR")
        try:
            return len(planned_captions(folder)) == self.captions
        except DataError:
            return False


def read_plan(folder: Path) -> Plan:
    """The plan in a folder.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        return Plan(**json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / PLAN} is missing or damaged. Remove {folder} and generate the set again") from error


def planned_captions(folder: Path) -> pa.Table:
    """The captions that a set draws."""
    return map_arrow(folder / WORK / "captions.arrow")


def work_folder(folder: Path) -> Path:
    """A sub-folder for unfinished files of this machine: process numbers of two machines may be equal."""
    path = folder / WORK / f"unfinished-{digest(machine())[:8]}"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def durable(path: Path, folder: Path) -> Iterator[Path]:
    """`written_whole`, whose new name has reached the disk, too."""
    with written_whole(path, work_folder(folder)) as partial:
        yield partial
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
