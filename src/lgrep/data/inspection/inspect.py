"""Everything that the page shows, gathered from a table, a pairing and the views."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import track

from lgrep.data.dataset import ViewDataset
from lgrep.data.inspection.statistics import (
    Agreement,
    Histogram,
    Hubs,
    Repeated,
    edges_of,
    equal_captions,
    histogram,
    hubs,
    label_agreement,
    similarities,
)
from lgrep.data.notices import reason_of
from lgrep.data.pairings import Pairing
from lgrep.data.pictures import PictureError, decode
from lgrep.data.randomness import PAIRING_STREAM, keyed_generator
from lgrep.data.table import Table
from lgrep.data.transforms import Transform
from lgrep.data.views import View
from lgrep.errors import DataError

ANCHORS = 2000  # drawn for the statistics of pairs
THUMBNAIL = 128  # px
MANY = 5_000_000  # captions whose texts are compared only when all duplicates are asked for


class Options(BaseModel):
    """What to show.

    Attributes:
        out: the HTML file to write.
        groups: anchors shown with their pictures.
        views: also show the augmented views that a method would get.
        duplicates: look for equal files among the pictures drawn for 2,000 anchors (`sample`), of the whole set (reads
            everything), or not.
    """

    model_config = ConfigDict(extra="forbid")

    out: str = Field("pairs.html", min_length=1)
    groups: int = Field(24, ge=1, le=1000)
    views: bool = True
    duplicates: Literal["sample", "all", "none"] = "sample"


@dataclass(frozen=True)
class Shown:
    """A picture: JPEG bytes (None: it cannot be read, and `problem` says why) and what is known of it."""

    jpeg: bytes | None
    identity: str
    captions: list[str] = field(default_factory=list)
    label: int | None = None
    similarity: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Group:
    """One anchor: the pictures that the pairing draws in the first epoch, and their views."""

    anchor: int
    pictures: list[Shown]
    views: list[Shown]


@dataclass(frozen=True)
class Duplicates:
    """Files of equal bytes.

    Attributes:
        read: pictures that were compared.
        unreadable: pictures that could not be read.
        files: names of equal pictures, counted.
        pairs: share of the drawn pairs of different pictures that are equal files.
    """

    read: int
    unreadable: int
    files: Repeated
    pairs: float


@dataclass(frozen=True)
class Inspection:
    """The content of the page; None: not looked at, or there is nothing of the kind."""

    name: str
    pictures: int
    captions: int
    anchors: int
    per_caption: Histogram | None
    empty_captions: int
    groups: list[Group]
    sampled: int
    similarity: Histogram | None = None
    hubs: Hubs | None = None
    hub_texts: list[str] = field(default_factory=list)
    duplicates: Duplicates | None = None
    equal_captions: Repeated | None = None
    labels: Agreement | None = None


def inspect_pairs(
    table: Table,
    pairing: Pairing,
    views: Sequence[View],
    transforms: Mapping[str, Transform],
    seed: int,
    options: Options,
) -> Inspection:
    """Look at a data set through a pairing.

    Args:
        table: the pictures.
        pairing: chooses the pictures of an anchor.
        views: V views.
        transforms: by name.
        seed: of the run; the pairs are those of its first epoch.
        options: what to show.

    Raises:
        DataError: the pairing does not fit the data, or has no anchor.
    """
    anchors = pairing.anchors(table)
    if not len(anchors):
        raise DataError(f"{table.name}: this pairing has no anchor, so there are no pairs to show")
    order = np.random.default_rng(seed).permutation(len(anchors))[: max(ANCHORS, options.groups)]
    chosen = [int(anchor) for anchor in anchors[order]]
    drawn = [[int(row) for row in _draw(pairing, table, anchor, seed)] for anchor in chosen]
    edges = edges_of(pairing)
    top = None if edges is None else hubs(edges)
    counts = table.counts
    texts = table.num_groups <= MANY or options.duplicates == "all"
    dataset = ViewDataset(table, pairing, views, transforms, seed)
    similarity = None if edges is None else edges.similarity
    shown = _track(list(zip(chosen, drawn, strict=True))[: options.groups], "groups")
    return Inspection(
        name=table.name,
        pictures=len(table),
        captions=table.num_groups,
        anchors=len(anchors),
        per_caption=histogram(counts),
        empty_captions=_empty(table) if texts else 0,
        groups=[_group(dataset, anchor, rows, similarity, options.views) for anchor, rows in shown],
        sampled=len(drawn),
        similarity=None if edges is None else similarities(edges),
        hubs=top,
        hub_texts=[] if top is None else [_unit_text(table, top.unit, unit) for unit, _ in top.top],
        duplicates=_duplicates(table, drawn, options.duplicates),
        equal_captions=equal_captions(table) if texts and options.duplicates != "none" else None,
        labels=label_agreement(table, drawn),
    )


def _draw(pairing: Pairing, table: Table, anchor: int, seed: int) -> Sequence[int]:
    return pairing.draw(table, anchor, keyed_generator(seed, 0, anchor, PAIRING_STREAM))


def _group(
    dataset: ViewDataset,
    anchor: int,
    rows: list[int],
    similarity: Callable[[Table, int, int], float | None] | None,
    views: bool,
) -> Group:
    table = dataset.table
    pictures = []
    for place, row in enumerate(rows):
        score = similarity(table, rows[0], row) if similarity is not None and place else None
        pictures.append(_shown(table, row, score))
    return Group(anchor, pictures, _views(dataset, anchor) if views else [])


def _shown(table: Table, row: int, similarity: float | None) -> Shown:
    jpeg, problem = None, ""
    try:
        picture = decode(table.read(row))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        jpeg = _jpeg(picture)
    except (PictureError, OSError, ValueError) as error:
        problem = reason_of(error)
    label = int(table.column("label")[row]) if table.has("label") else -1
    return Shown(jpeg, table.identity(row), table.texts(row), label if label >= 0 else None, similarity, problem)


@torch.no_grad()
def _views(dataset: ViewDataset, anchor: int) -> list[Shown]:
    """The views of the first epoch, augmented on the CPU, their normalisation undone."""
    try:
        sample = dataset[0, anchor]
    except DataError as error:
        return [Shown(None, "", problem=str(error))]
    instead = {used: row for row, used, _ in sample.replaced}
    shown = []
    for view, pixels, params, row in zip(dataset.views, sample.pixels, sample.params, sample.rows, strict=True):
        transform = dataset.transforms[view.transform]
        finished = transform.device(torch.from_numpy(np.asarray(pixels))[None], transform.collate([params]))[0]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
        bytes_ = ((finished * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        note = f"in place of {dataset.table.identity(instead[row])}" if row in instead else ""
        name = f"{view.transform} {view.size} px of {dataset.table.identity(row)}"
        shown.append(Shown(_jpeg(Image.fromarray(bytes_)), name, problem=note))
    return shown


def _jpeg(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _duplicates(table: Table, drawn: list[list[int]], among: str) -> Duplicates | None:
    if among == "none":
        return None
    rows = range(len(table)) if among == "all" else list(dict.fromkeys(row for group in drawn for row in group))
    digests: dict[int, bytes] = {}
    for row in _track(rows, "comparing files"):
        try:
            digests[row] = hashlib.blake2b(table.read(row), digest_size=16).digest()
        except (OSError, ValueError):
            continue
    same: dict[bytes, list[int]] = {}
    for row, digest in digests.items():
        same.setdefault(digest, []).append(row)
    sets = sorted((members for members in same.values() if len(members) > 1), key=lambda rows: (-len(rows), rows))
    listed = [(" = ".join(table.identity(row) for row in members[:4]), len(members)) for members in sets[:20]]
    files = Repeated(len(sets), sum(map(len, sets)), listed)
    pairs = [
        digests[a] == digests[b]
        for group in drawn
        for a, b in zip(group[:1] * len(group), group[1:], strict=False)
        if a != b and a in digests and b in digests
    ]
    return Duplicates(len(digests), len(rows) - len(digests), files, sum(pairs) / max(len(pairs), 1))


def _unit_text(table: Table, unit: str, number: int) -> str:
    row = number if unit == "picture" else next(iter(table.members(number)), None)
    return "" if row is None else table.caption(row) or table.identity(row)


def _empty(table: Table) -> int:
    return int(pc.sum(pc.equal(pc.utf8_length(table.captions["text"]), 0)).as_py() or 0)


def _track(items: Sequence[Any], title: str) -> Any:
    console = Console(stderr=True)
    return track(items, title, console=console, transient=True, disable=not console.is_terminal)
