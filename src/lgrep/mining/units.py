"""What is searched: captions or pictures of a set as unit vectors, with what may not be a neighbour of what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """Rows of a neighbour table and their vectors.

    Attributes:
        values: float16 or float32 [M, D], usually a memory map.
        source: row of `values` of each unit, int64 [N]; None: the same row.
        label: units with the same number are never neighbours of each other, int64 [N]; None: each has its own.
        ceiling: greater similarities count as the same picture or caption, and are left out.
    """

    values: NDArray[Any]
    source: Rows | None = None
    label: Rows | None = None
    ceiling: float | None = field(default=None)

    def __len__(self) -> int:
        return len(self.values if self.source is None else self.source)

    @property
    def dim(self) -> int:
        """D of the vectors."""
        return int(self.values.shape[1])

    def take(self, rows: Rows) -> NDArray[np.float32]:
        """Unit vectors float32 [n, D]; zeros stay zeros."""
        places = rows if self.source is None else self.source[rows]
        first, last = (int(places[0]), int(places[-1])) if len(places) else (0, -1)
        whole = last - first + 1 == len(places) and bool((np.diff(places) == 1).all())
        found = np.array(self.values[first : last + 1] if whole else self.values[places])
        return normalised(torch.from_numpy(found).float().numpy())  # torch converts float16 many times faster

    def labels(self, rows: Rows) -> Rows:
        """The numbers that only units that are no neighbours share."""
        return rows if self.label is None else self.label[rows]


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors divided by their lengths, in place; zeros stay zeros."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    vectors /= np.where(lengths > 0, lengths, 1)[:, None]
    return vectors
