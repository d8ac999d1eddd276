"""Sets, and vectors that are searched, made for the tests of mining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from made import encoded

from lgrep.data.shards import write_set
from lgrep.data.table import Table, open_set


def clustered(rows: int, dim: int, seed: int = 0, clusters: int = 40) -> np.ndarray:
    """Unit vectors around random centres, float32 [rows, dim]."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    vectors = centres[rng.integers(clusters, size=rows)] + 0.5 * rng.standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(
    vectors: np.ndarray, k: int, labels: Sequence[int] | None = None, ceiling: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every row by sorting all products in float64; rows with equal labels are excluded."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    wide = wide / np.where(lengths > 0, lengths, 1)
    products = wide @ wide.T
    labels = np.arange(len(wide)) if labels is None else np.asarray(labels)
    products[labels[:, None] == labels[None, :]] = -np.inf
    products[products > ceiling] = -np.inf
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(products, order, axis=1)
    return np.where(np.isfinite(best), order, -1), best


def captioned_set(
    folder: Path,
    texts: Sequence[str],
    vectors: np.ndarray | None = None,
    per_caption: int = 2,
    **columns: Sequence[Any],
) -> Table:
    """A set of made pictures; `columns` are of the captions' pictures, one value per caption, `vectors` a stored feature."""
    caption_fields = [pa.field("id", pa.string()), pa.field("text", pa.string())]
    captions: list[dict[str, Any]] = [{"id": f"c{number}", "text": text} for number, text in enumerate(texts)]
    if vectors is not None:
        caption_fields.append(pa.field("embedding", pa.list_(pa.float32(), vectors.shape[1])))
        for caption, vector in zip(captions, vectors, strict=True):
            caption["embedding"] = vector.tolist()
    fields = [pa.field("id", pa.string()), pa.field("group", pa.int32())]
    fields += [pa.field(name, pa.string()) for name in columns]
    pictures = [
        (
            {"id": f"p{number}_{copy}", "group": number, **{name: column[number] for name, column in columns.items()}},
            encoded(10 * number + copy),
        )
        for number in range(len(texts))
        for copy in range(per_caption)
    ]
    write_set(folder, "made", pictures, captions, pa.schema(fields), pa.schema(caption_fields))
    return open_set(folder)
