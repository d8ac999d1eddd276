"""Views: which picture of an anchor is rendered by which transform, at which size, how often."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from lgrep.errors import ConfigError, did_you_mean

SEPARATOR = "|"  # between the transforms of which a view takes one at random


class ViewEntry(BaseModel):
    """One line of `augment.views`.

    Attributes:
        transform: name of an entry of `augment.transforms`, or several of which each view takes one at random.
        size: side of the rendered square in pixels.
        scale: side relative to that of the first entry, instead of `size`: 0.43 makes the usual 96 of 224.
        multiple: sides from `scale` are rounded to this many pixels (16 suits patches of 4, 8 and 16).
        picture: number of the anchor's picture; None: view i takes picture i mod P.
        count: how many such views; None: as many as the anchor has pictures, at least two.
    """

    model_config = ConfigDict(extra="forbid")

    transform: str | Annotated[list[str], Field(min_length=1)]
    size: PositiveInt | None = None
    scale: PositiveFloat | None = None
    multiple: PositiveInt = 16
    picture: NonNegativeInt | None = None
    count: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_size(self) -> ViewEntry:
        if (self.size is None) == (self.scale is None):
            raise ValueError("give each view either size (pixels) or scale (share of the first view's size)")
        return self

    def side(self, first: int) -> int:
        """Side in pixels, when that of the first entry is `first`."""
        if self.size is not None:
            return self.size
        assert self.scale is not None
        return max(1, math.floor(self.scale * first / self.multiple + 0.5)) * self.multiple


@dataclass(frozen=True)
class View:
    """One view of every anchor; several names of `transform` are joined by `|` (`OneOf`)."""

    picture: int
    transform: str
    size: int


def expand_views(entries: Sequence[ViewEntry], pictures: int, transforms: Iterable[str]) -> list[View]:
    """The V views of an anchor with P = `pictures` pictures, in order.

    Raises:
        ConfigError: no view, a first view without a size, an unknown transform, or a picture number that the pairing
            does not provide.
    """
    names = sorted(transforms)
    views: list[View] = []
    if entries and entries[0].size is None:
        raise ConfigError(
            "augment.views[0] has no size, which the others' scale refers to; give it one, e.g. size: ${backbone.image_size}"
        )
    for number, entry in enumerate(entries):
        parts = [entry.transform] if isinstance(entry.transform, str) else entry.transform
        for part in parts:
            if part not in names:
                raise ConfigError(
                    f"augment.views[{number}].transform: no transform '{part}'; {did_you_mean(part, names)}"
                )
        for _ in range(entry.count if entry.count is not None else max(2, pictures)):
            picture = entry.picture if entry.picture is not None else len(views) % pictures
            views.append(View(picture, SEPARATOR.join(parts), entry.side(entries[0].size or 0)))
    asked = sorted({view.picture for view in views})
    if not views:
        raise ConfigError("augment.views is empty; give at least one view, e.g. augment=simclr")
    if asked[-1] >= pictures:
        raise ConfigError(
            f"augment.views ask for pictures {asked}, but the pairing provides pictures {list(range(pictures))} per anchor. "
            f"Type pairing=siblings or pairing=neighbour with pairing.pictures={asked[-1] + 1}, or change the picture numbers "
            "of augment.views"
        )
    return views


def describe_views(views: Sequence[View]) -> str:
    """One line for the start screen, e.g. `4 x strong 48 px`."""
    counts: dict[tuple[str, int], int] = {}
    for view in views:
        counts[view.transform, view.size] = counts.get((view.transform, view.size), 0) + 1
    return ", ".join(f"{count} x {name} {size} px" for (name, size), count in counts.items())
