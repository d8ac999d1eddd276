"""A part of any source: rows that fulfil conditions, and random subsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from lgrep.data.filters import caption_rows, check_where, limited_rows, selected_rows
from lgrep.data.notices import notice
from lgrep.data.probe import ProbeTables
from lgrep.data.table import Table

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class FilteredSource:
    """The rows of another source that `where` and `limit` leave; its probe and all else are passed through.

    `data.where`, `data.limit`, `data.limit_seed` and `data.limit_by` of any source make one.

    Args:
        source: the whole.
        where: conditions; see `lgrep.data.filters.selected_rows`.
        limit: how many of what `where` leaves; None: all.
        limit_seed: another seed gives another subset; the same one, subsets that contain each other.
        limit_by: what `limit` counts: pictures, or captions with all their pictures.
    """

    def __init__(
        self,
        source: Any,
        where: Mapping[str, Any] | None = None,
        limit: PositiveInt | None = None,
        limit_seed: Seed = 0,
        limit_by: Literal["picture", "caption"] = "picture",
    ) -> None:
        self.source = source
        self.where = dict(where or {})
        self.limit = limit
        self.limit_seed = limit_seed
        self.limit_by = limit_by
        check_where(self.where)

    def training(self) -> Table:
        table: Table = self.source.training()
        rows = selected_rows(table, self.where) if self.where else np.arange(len(table))
        if self.limit is not None:
            kept = limited_rows(table, rows, self.limit, self.limit_seed, self.limit_by)
            if self.limit_by == "picture":
                self._tell_thinned(table, rows, kept)
            rows = kept
        return table if len(rows) == len(table) else table.select(rows)

    def probe(self) -> ProbeTables | None:
        found: ProbeTables | None = self.source.probe()
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "source":  # not yet there while a copy is made
            raise AttributeError(name)
        return getattr(self.source, name)

    def _tell_thinned(self, table: Table, rows: np.ndarray[Any, Any], kept: np.ndarray[Any, Any]) -> None:
        """Pictures drawn one by one leave captions with few siblings."""
        if table.num_groups == len(table):
            return
        group = caption_rows(table)
        before, after = (np.bincount(group[part], minlength=table.num_groups) for part in (rows, kept))
        thinned = int(((after > 0) & (after < before)).sum())
        if thinned:
            notice(
                f"data.limit={self.limit} counts pictures: {thinned:,} of {int((after > 0).sum()):,} captions lose some "
                "of theirs. Type data.limit_by=caption to count captions and keep all pictures of each"
            )
