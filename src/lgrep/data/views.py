"""Views: which picture of an anchor is rendered by which transform, at which size, how often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from lgrep.errors import ConfigError, did_you_mean


class ViewEntry(BaseModel):
    """One line of `augment.views`.

    Attributes:
        transform: name of an entry of `augment.transforms`.
        size: side of the rendered square in pixels.
        picture: number of the anchor's picture; None: view i takes picture i mod P.
        count: how many such views; None: as many as the anchor has pictures, at least two.
    """

    model_config = ConfigDict(extra="forbid")

    transform: str
    size: PositiveInt
    picture: NonNegativeInt | None = None
    count: PositiveInt | None = None


@dataclass(frozen=True)
class View:
    """One view of every anchor."""

    picture: int
    transform: str
    size: int


def expand_views(entries: Sequence[ViewEntry], pictures: int, transforms: Iterable[str]) -> list[View]:
    """The V views of an anchor with P = `pictures` pictures, in order.

    Raises:
        ConfigError: no view, an unknown transform, or a picture number that the pairing does not provide.
    """
    names = sorted(transforms)
    views: list[View] = []
    for number, entry in enumerate(entries):
        if entry.transform not in names:
            raise ConfigError(
                f"augment.views[{number}].transform: no transform '{entry.transform}'; {did_you_mean(entry.transform, names)}"
            )
        for _ in range(entry.count if entry.count is not None else max(2, pictures)):
            picture = entry.picture if entry.picture is not None else len(views) % pictures
            views.append(View(picture, entry.transform, entry.size))
    asked = sorted({view.picture for view in views})
    if not views:
        raise ConfigError("augment.views is empty; give at least one view, e.g. augment=simclr")
    if asked[-1] >= pictures:
        raise ConfigError(
            f"augment.views ask for pictures {asked}, but the pairing provides pictures {list(range(pictures))} per anchor. "
            "Choose another pairing (e.g. pairing=siblings pairing.pictures="
            f"{asked[-1] + 1}) or change the picture numbers of augment.views"
        )
    return views


def describe_views(views: Sequence[View]) -> str:
    """One line for the start screen, e.g. `4 x strong 48 px`."""
    counts: dict[tuple[str, int], int] = {}
    for view in views:
        counts[view.transform, view.size] = counts.get((view.transform, view.size), 0) + 1
    return ", ".join(f"{count} x {name} {size} px" for (name, size), count in counts.items())
