"""Labelled pictures that online probes look at during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgrep.data.notices import examples, notice, reason_of
from lgrep.data.pictures import PictureError, decode
from lgrep.data.table import Table
from lgrep.data.transforms import EvalRecipe
from lgrep.errors import DataError


@dataclass
class ProbeTables:
    """Labelled tables for probes; labels are the tables' `label` columns, in 0..C-1.

    Attributes:
        gallery: pictures that neighbours are looked up in.
        queries: pictures to classify; none of them is trained on.
        class_names: C names.
    """

    gallery: Table
    queries: Table
    class_names: list[str]


@dataclass
class ProbeData:
    """Rendered probe pictures.

    Attributes:
        gallery: uint8 [N, 3, S, S].
        gallery_labels: Long [N].
        queries: uint8 [M, 3, S, S].
        query_labels: Long [M].
        class_names: C names.
    """

    gallery: Tensor
    gallery_labels: Tensor
    queries: Tensor
    query_labels: Tensor
    class_names: list[str]


def split_for_probes(
    table: Table, held_out: np.ndarray[Any, Any], gallery: np.ndarray[Any, Any], class_names: list[str], share: float
) -> ProbeTables | None:
    """Probe tables of a set that holds some of its own pictures out; None, and said so, when it holds none or all out.

    Args:
        table: all pictures.
        held_out: bool [N], the queries.
        gallery: bool [N], the pictures that are looked up.
        class_names: of the column `label`.
        share: value of data.probe_share, for the message.
    """
    if held_out.all() or not held_out.any():
        notice(f"no online probes: data.probe_share={share} draws {held_out.sum()} of {len(table)} pictures")
        return None
    return ProbeTables(table.select(np.flatnonzero(gallery)), table.select(np.flatnonzero(held_out)), class_names)


def render_probe(tables: ProbeTables, size: int) -> ProbeData:
    """Decode and centre-crop both tables to squares of `size` pixels."""
    gallery, gallery_labels = _render(tables.gallery, size)
    queries, query_labels = _render(tables.queries, size)
    return ProbeData(gallery, gallery_labels, queries, query_labels, tables.class_names)


def _render(table: Table, size: int) -> tuple[Tensor, Tensor]:
    """Pictures that cannot be read are left out, and said so."""
    crop = EvalRecipe(crop_fraction=1.0)
    rng = np.random.default_rng(0)  # unused by a deterministic transform; the protocol asks for one
    pixels, rows, problems = [], [], []
    for row in range(len(table)):
        try:
            picture = decode(table.read(row))
        except (PictureError, OSError, ValueError) as error:
            problems.append((table.store.locate(row), reason_of(error)))
            continue
        pixels.append(crop.worker(picture, crop.draw(rng, picture.width, picture.height), size))
        rows.append(row)
    if problems:
        notice(
            f"{len(problems):,} of {len(table):,} probe pictures cannot be read and are left out: {examples(problems)}"
        )
    if not pixels:
        raise DataError(
            f"{table.name}: none of the {len(table)} pictures for the online probes can be read: {examples(problems)}"
        )
    return torch.from_numpy(np.stack(pixels)), torch.from_numpy(table.column("label")[rows].astype(np.int64))
