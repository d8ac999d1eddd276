"""Vectors that the set already has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lgrep.data.table import Table
from lgrep.errors import ConfigError, did_you_mean
from lgrep.mining.encoders.base import EncoderOptions, Of, Vectors, register


class StoredFeatures:
    """A column of the captions that holds a vector each.

    Args:
        column: its name.
        table: the set.
    """

    of: Of = "captions"

    def __init__(self, column: str, table: Table) -> None:
        found = feature_columns(table)
        if column not in found:
            what = f"; {did_you_mean(column, found)}" if found else ", nor any other such column"
            raise ConfigError(
                f"miner.encoder=features/{column}: the captions of {table.name} have no stored features of that name{what} "
                "Type another miner, e.g. miner=minilm"
            )
        self._values = table.caption_column(column)
        self.name = f"features/{column}"
        self.dim = int(self._values.shape[1])
        self.settings = {"column": column}  # the values are part of the set, whose hash is known

    def encode(self, rows: Sequence[int]) -> Vectors:
        return np.asarray(self._values[rows], np.float32)


def feature_columns(table: Table) -> list[str]:
    """Columns of the captions that hold vectors of numbers."""
    return [
        field.name
        for field in table.captions.schema
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type)
    ]


@register("features", "features/COLUMN")
def _build(column: str, table: Table, options: EncoderOptions) -> StoredFeatures:
    return StoredFeatures(column, table)
