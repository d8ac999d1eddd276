"""Several sources as one: uniform over the union of their pictures, or mixed by share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PositiveFloat

from lgrep.data.mixing import Mixture
from lgrep.data.notices import notice
from lgrep.data.probe import ProbeTables
from lgrep.data.sources.published import PublishedSchedule
from lgrep.data.table import Table
from lgrep.data.unions import UnionTable
from lgrep.errors import ConfigError, DataError

_HOW = "Type '+data@data.parts.NAME=folder' data.parts.NAME.root=DIR, and so on for every part"


class UnionSource:
    """The pictures of several sources, for example CC3M + CC12M + YFCC15M, or real + synthetic ones.

    Args:
        parts: name -> source (in a configuration: its `data` node).
        same_text: what captions of equal text are to each other: `separate` anchors, or `merge`d into one with the
            pictures of all of them.
        shares: part -> its share of the anchors of every epoch, whatever the sizes of the parts; an epoch stays as
            long as the union. None: every anchor once.
        name: of the set in messages and records; by default the names of the parts.
        schedules: lengths that `duration=NAME` may name.

    Attributes:
        mixture: names and shares for the sampler, or None.
        left_out: (picture, reason) of what the parts left out.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        same_text: Literal["separate", "merge"] = "separate",
        shares: Mapping[str, PositiveFloat] | None = None,
        name: str | None = None,
        schedules: Mapping[str, PublishedSchedule] | None = None,
    ) -> None:
        self.parts = {str(part): source for part, source in parts.items() if source is not None}
        if not self.parts:
            raise ConfigError(f"data.parts is empty: a union needs parts. {_HOW}")
        wrong = [part for part, source in self.parts.items() if not callable(getattr(source, "training", None))]
        if wrong:
            raise ConfigError(f"data.parts.{wrong[0]} is no source. {_HOW}")
        if shares and same_text == "merge":
            raise ConfigError(
                "data.shares counts the anchors of each part, but data.same_text=merge makes anchors of pictures of "
                "several parts. Type data.same_text=separate or data.shares=null"
            )
        self.same_text = same_text
        self.mixture = Mixture.of(shares, list(self.parts)) if shares else None
        self.name = name or "+".join(self.parts)
        self.schedules = dict(schedules or {})
        self._table: UnionTable | None = None
        self._probe: ProbeTables | None = None

    @property
    def left_out(self) -> list[tuple[str, str]]:
        return [
            (f"{part}/{picture}", reason)
            for part, source in self.parts.items()
            for picture, reason in getattr(source, "left_out", [])
        ]

    def training(self) -> Table:
        return self._open()

    def probe(self) -> ProbeTables | None:
        """The parts' probes side by side, where they have the same classes."""
        self._open()
        return self._probe

    def _open(self) -> UnionTable:
        if self._table is None:
            tables, probes = {}, {}
            for part, source in self.parts.items():
                try:
                    tables[part] = source.training()
                    probes[part] = source.probe()
                except DataError as error:
                    raise DataError(f"data.parts.{part} (there, data.KEY is data.parts.{part}.KEY): {error}") from error
            self._probe = self._join({part: probe for part, probe in probes.items() if probe is not None})
            labelled = [
                part
                for part, table in tables.items()
                if table.has("label") and table.column("label").max(initial=-1) >= 0
            ]
            named = [part for part in labelled if probes[part] is not None]
            agree = len(labelled) <= 1 or (self._probe is not None and named == labelled)
            if not agree:
                self._probe = None
                notice(
                    f"{self.name}: the parts {', '.join(labelled)} have labels, but not provably of the same classes: "
                    "labels and online probes are left out"
                )
            self._table = UnionTable(tables, self.name, self.same_text == "merge", labels=agree)
        return self._table

    def _join(self, probes: Mapping[str, ProbeTables]) -> ProbeTables | None:
        """One probe of several; None when there is none, or their classes differ."""
        names = [probe.class_names for probe in probes.values()]
        if not names or any(other != names[0] for other in names[1:]):
            return None
        if len(names) == 1:
            return next(iter(probes.values()))
        return ProbeTables(
            gallery=UnionTable({part: probe.gallery for part, probe in probes.items()}, f"{self.name} gallery"),
            queries=UnionTable({part: probe.queries for part, probe in probes.items()}, f"{self.name} queries"),
            class_names=names[0],
        )
