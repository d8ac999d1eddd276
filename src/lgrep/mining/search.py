"""Nearest neighbours by FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrep.errors import ConfigError


def require_faiss() -> Any:
    """The module `faiss`, which two exclusive extras install.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "neighbour search needs FAISS. Type pip install 'lgrep[cpu]', or, on a machine with a CUDA GPU, "
            "pip install 'lgrep[gpu]' (not both: they install the same module)"
        ) from error
    return faiss


def nearest(
    queries: NDArray[np.float32], database: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exact nearest neighbours by inner product.

    Args:
        queries: float32 [M, D].
        database: float32 [N, D]; unit rows make the product a cosine.
        k: neighbours per query, at most N.

    Returns:
        Rows of the database [M, k], nearest first, and their products [M, k].

    Raises:
        ConfigError: FAISS is not installed.
        ValueError: k is not in 1..N, or the dimensions differ.
    """
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(f"expected [M, D] and [N, D], got {queries.shape} and {database.shape}")
    if not 1 <= k <= len(database):
        raise ValueError(f"k={k} is not in 1..{len(database)}")
    index = require_faiss().IndexFlatIP(queries.shape[1])
    index.add(np.ascontiguousarray(database, dtype=np.float32))
    products, rows = index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
    return rows, products
