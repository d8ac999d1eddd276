"""The same set mined with several encoders: the paper's sampling spaces side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lgrep.data.neighbours import NeighbourTable, open_neighbours
from lgrep.data.notices import notice
from lgrep.data.table import Table
from lgrep.errors import ConfigError
from lgrep.mining.audit.findings import label_agreement, text_of
from lgrep.mining.mine import mine
from lgrep.mining.settings import Miner

_EXAMPLES = 12


@dataclass(frozen=True)
class Compared:
    """One encoder's neighbours of the captions of a set.

    Attributes:
        encoder: its name.
        table: folder of its neighbour table, which `pairing.table` takes.
        similarity: mean of the nearest neighbour.
        labels: see `lgrep.mining.audit.findings.Audit`.
        agreement: share of rows with the same nearest neighbour as the first encoder's.
        greatest_in_degree: of any row, over all k.
        examples: nearest captions of some rows, the same rows for every encoder.
    """

    encoder: str
    table: Path
    similarity: float
    labels: list[float] | None
    agreement: float
    greatest_in_degree: int
    examples: list[tuple[str, str]]


def compare_encoders(
    table: Table, encoders: Sequence[str], miner: Miner, out: Path, cache: Path
) -> tuple[list[Compared], list[str]]:
    """Mine the captions of a set with each encoder.

    Args:
        table: the set.
        encoders: their names; one whose package is missing is left out with a notice.
        miner: all other settings. Captions are mined with visual encoders, too, by the mean of their pictures.
        out: folder of the neighbour tables, one folder each.
        cache: see `mine`.

    Returns:
        What was found, and why some encoders were left out.
    """
    found: list[Compared] = []
    missing: list[str] = []
    first: NeighbourTable | None = None
    for name in encoders:
        folder = out / re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
        try:
            mine(table, folder, miner.model_copy(update={"encoder": name, "unit": "caption"}), cache)
        except ConfigError as error:
            if "package" not in str(error):
                raise
            notice(str(error))
            missing.append(str(error))
            continue
        neighbours = open_neighbours(folder)
        first = first or neighbours
        found.append(_compared(table, name, neighbours, first))
    return found, missing


def _compared(table: Table, name: str, neighbours: NeighbourTable, first: NeighbourTable) -> Compared:
    nearest, scores = neighbours.indices[:, 0], neighbours.similarities[:, 0]
    some = nearest >= 0
    every = np.asarray(neighbours.indices)
    rows = np.random.default_rng(0).permutation(len(neighbours))[:_EXAMPLES]
    return Compared(
        encoder=name,
        table=neighbours.path,
        similarity=float(scores[some].mean()) if some.any() else 0.0,
        labels=label_agreement(table, neighbours),
        agreement=float((nearest == first.indices[:, 0])[some].mean()) if some.any() else 0.0,
        greatest_in_degree=int(np.bincount(every[every >= 0], minlength=1).max()),
        examples=[
            (
                text_of(table, "caption", row),
                text_of(table, "caption", nearest[row]) if nearest[row] >= 0 else "(none)",
            )
            for row in rows
        ],
    )
