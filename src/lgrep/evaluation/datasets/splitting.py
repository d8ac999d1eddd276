"""Parts of sets that were published without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from lgrep.config.schema import Section
from lgrep.errors import DataError
from lgrep.evaluation.datasets.listed import Keys

Share = Annotated[float, Field(gt=0, lt=1)]
PartName = Literal["train", "validation", "test"]


class SplitRule(Section):
    """Draws the parts within every class, in an order that depends on the pictures' names and the seed alone.

    Attributes:
        counts: pictures of every class in a part.
        shares: shares of the pictures of every class, instead.
        rest: part of the others.
        seed: of the draw; not that of a run, which would test every run on other pictures.
    """

    counts: dict[PartName, PositiveInt] = Field(default_factory=dict)
    shares: dict[PartName, Share] = Field(default_factory=dict)
    rest: PartName = "train"
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _one_way(self) -> SplitRule:
        if bool(self.counts) == bool(self.shares) or self.rest in {**self.counts, **self.shares}:
            raise ValueError("give either counts or shares of the parts, and none for the part 'rest'")
        if sum(self.shares.values()) >= 1:
            raise ValueError("the shares leave nothing for the part 'rest'")
        return self


def drawn_parts(files: Sequence[str], keys: Sequence[Keys], rule: SplitRule) -> list[str]:
    """The part of every picture.

    A share is rounded to whole pictures; a class of two or more gives at least one to `test` and keeps one for `rest`.

    Raises:
        DataError: a class has too few pictures for the counts.
    """
    rows_of: dict[Keys, list[int]] = defaultdict(list)
    for row in np.argsort(np.asarray(files, dtype=object), kind="stable").tolist():
        rows_of[keys[row]].append(row)
    chosen = [rule.rest] * len(files)
    random = np.random.RandomState(rule.seed)  # the legacy generator's stream is frozen for good
    for key in sorted(rows_of, key=str):
        rows = [rows_of[key][place] for place in random.permutation(len(rows_of[key]))]
        begin = 0
        for part, count in _counts(rule, len(rows), key).items():
            for row in rows[begin : begin + count]:
                chosen[row] = part
            begin += count
    return [str(part) for part in chosen]


def _counts(rule: SplitRule, size: int, key: Keys) -> dict[PartName, int]:
    if rule.counts:
        if sum(rule.counts.values()) >= size:
            raise DataError(f"class {key} has {size:,} pictures, the split needs {sum(rule.counts.values()) + 1:,}")
        return rule.counts
    order = sorted(rule.shares, key=lambda part: part != "test")
    counts: dict[PartName, int] = {}
    for part in order:
        wanted = round(rule.shares[part] * size)
        least = int(part == "test" and size > 1)
        counts[part] = min(max(wanted, least), size - 1 - sum(counts.values()))
    return counts
