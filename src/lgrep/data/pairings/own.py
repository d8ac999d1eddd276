"""Views of one picture as positives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lgrep.data.table import Table


class SelfPairing:
    """Every picture is its own anchor; positives are views of one picture (SimCLR)."""

    pictures = 1

    def anchors(self, table: Table) -> np.ndarray[Any, Any]:
        return np.arange(len(table))

    def draw(self, table: Table, anchor: int, rng: np.random.Generator) -> Sequence[int]:
        return [anchor]

    def group(self, table: Table, anchor: int) -> int:
        return anchor

    def substitutes(self, table: Table, anchor: int, drawn: Sequence[int]) -> Sequence[int]:
        return []
