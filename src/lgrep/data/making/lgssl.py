"""Neighbour tables from the lists that language-guided SSL's scripts write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from lgrep.data.json_stream import json_entries
from lgrep.data.neighbours import NeighboursAbout, write_neighbours
from lgrep.data.notices import shown
from lgrep.data.sources.lgssl import LgsslSource
from lgrep.data.table import Table
from lgrep.errors import DataError

_ROWS = 2**16
Similarity = Annotated[float, Field(ge=-1, le=1)]


class Neighbours(NamedTuple):
    """Neighbours of the pictures of a table, best first.

    Attributes:
        indices: int32 [N, k], -1 = none.
        similarities: float32 [N, k], -inf where there is none.
        unknown: entries that name a picture which the table does not have.
        below: entries below a threshold.
        useless: entries without a similarity, or of a picture with itself, or repeated.
    """

    indices: NDArray[np.int32]
    similarities: NDArray[np.float32]
    unknown: int
    below: int
    useless: int


def read_lgssl_neighbours(
    path: Path, table: Table, similarity_threshold: float = -1.0, ratio_threshold: float = 0.0
) -> Neighbours:
    """Read `DATASET_ENCODER.json` (arXiv 2302.12248): entries `[[dir, id], [dir, id], similarity]` or with a ratio.

    Each entry is directed. A picture that no entry starts from has no neighbour; several entries of one picture are
    ordered by similarity. The list may have any length: it is read entry by entry.

    Args:
        path: the file.
        table: of `LgsslSource`, whose ids are `dir/id`.
        similarity_threshold: entries below are passed over, as in the published loader.
        ratio_threshold: the same for the fourth value, which is 1 where it is absent.

    Raises:
        DataError: not such a list, or none of its pictures is in the table.
    """
    names: list[list[pa.Array]] = [[], []]
    values: list[NDArray[np.float64]] = []
    for block in _blocks(path):
        for side in (0, 1):
            names[side].append(pa.array([entry[side] for entry in block], pa.large_string()))
        values.append(np.array([entry[2:] for entry in block], np.float64).reshape(-1, 2))
    if not values:
        raise DataError(f"make.file={shown(path)} is an empty list")
    ids = [pa.chunked_array(side) for side in names]
    known = pa.chunked_array(table.pictures["id"].chunks).cast(pa.large_string())
    source, target = (pc.fill_null(pc.index_in(side, known), -1).to_numpy().astype(np.int64) for side in ids)
    measured = np.concatenate(values)
    there = (source >= 0) & (target >= 0)
    if not there.any():
        raise DataError(
            f"make.file={shown(path)}: none of its {len(there):,} entries names two pictures of {table.name}, e.g. "
            f"{shown(ids[0][0].as_py())}. Give the root or dictionary that it was made from"
        )
    enough = (measured[:, 0] >= similarity_threshold) & (measured[:, 1] >= ratio_threshold)
    sound = np.isfinite(measured).all(axis=1) & (source != target)
    kept = there & enough & sound
    indices, similarities, repeated = _table(source[kept], target[kept], measured[kept, 0], len(table))
    below = int((there & ~enough & np.isfinite(measured).all(axis=1)).sum())
    useless = int((there & ~sound).sum()) + repeated
    return Neighbours(indices, similarities, int((~there).sum()), below, useless)


def make_lgssl_neighbours(
    out: Path,
    file: str,
    root: str,
    dictionary: str | None = None,
    similarity_threshold: Similarity = -1.0,
    ratio_threshold: Annotated[float, Field(ge=0)] = 0.0,
    encoder: str = "",
) -> str:
    """Write a published neighbour list as a neighbour table, for `pairing=neighbour pairing.table=OUT`.

    Args:
        out: folder to write.
        file: `DATASET_ENCODER.json`.
        root: see `LgsslSource`; train with the same source and settings.
        dictionary: see `LgsslSource`.
        similarity_threshold: see `read_lgssl_neighbours`.
        ratio_threshold: see `read_lgssl_neighbours`.
        encoder: kept in the table's description; empty: what follows the last `_` in the name of the file.

    Returns:
        A sentence that counts the pictures with neighbours.
    """
    table = LgsslSource(root, dictionary).training()
    path = Path(file).expanduser()
    found = read_lgssl_neighbours(path, table, similarity_threshold, ratio_threshold)
    about = NeighboursAbout(
        unit="picture",
        table=table.name,
        content_hash=table.content_hash,
        encoder={"name": encoder or path.stem.rpartition("_")[2]},
        provenance={
            "file": path.name,
            "similarity_threshold": similarity_threshold,
            "ratio_threshold": ratio_threshold,
        },
    )
    write_neighbours(out, found.indices, found.similarities, about)
    some = int((found.indices[:, 0] >= 0).sum())
    return (
        f"{some:,} of {len(table):,} pictures have neighbours (up to {found.indices.shape[1]}) in {shown(out)}. Passed "
        f"over: {found.unknown:,} of unknown pictures, {found.below:,} below a threshold, {found.useless:,} useless"
    )


def _blocks(path: Path) -> Iterator[list[tuple[str, str, float, float]]]:
    block: list[tuple[str, str, float, float]] = []
    for key, entry in json_entries(path, "make.file"):
        try:
            if key is not None:
                raise TypeError
            (directory, instance), (other_directory, other), similarity, *ratio = entry
            numbers = (float(similarity), float(ratio[0]) if ratio else 1.0)
            if len(ratio) > 1 or not all(
                isinstance(part, str) for part in (directory, instance, other_directory, other)
            ):
                raise TypeError
        except (TypeError, ValueError) as error:
            raise DataError(
                f"make.file={shown(path)}: {shown(str(entry)[:120])} is no [[dir, id], [dir, id], similarity]"
            ) from error
        block.append((shown(f"{directory}/{instance}"), shown(f"{other_directory}/{other}"), *numbers))
        if len(block) == _ROWS:
            yield block
            block = []
    if block:
        yield block


def _table(
    source: NDArray[Any], target: NDArray[Any], similarity: NDArray[Any], rows: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], int]:
    """Entries as padded rows, best first, each target once."""
    order = np.lexsort((target, -similarity, source))
    source, target, similarity = source[order], target[order], similarity[order]
    pairs = source * rows + target
    _, first = np.unique(pairs, return_index=True)
    first = np.sort(first)
    repeated = len(pairs) - len(first)
    source, target, similarity = source[first], target[first], similarity[first]
    place = np.arange(len(source)) - np.searchsorted(source, source)
    k = int(place.max(initial=0)) + 1
    indices = np.full((rows, k), -1, np.int32)
    similarities = np.full((rows, k), -np.inf, np.float32)
    indices[source, place] = target
    similarities[source, place] = similarity
    return indices, similarities, repeated
