"""Text views of an anchor: a caption of one of its pictures, changed by a transform, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt


class TextEntry(BaseModel):
    """One line of `text.views`.

    Attributes:
        transform: name of an entry of `text.transforms`.
        picture: number of the anchor's picture whose caption is taken.
        count: how many such views.
    """

    model_config = ConfigDict(extra="forbid")

    transform: str = "plain"
    picture: NonNegativeInt = 0
    count: PositiveInt = 1


class TextViews:
    """T text views of every anchor.

    Attributes:
        pictures: for each of the T views, the number of the picture whose caption it shows.
        features: column of the caption table with stored features of a frozen text encoder; None: not used.
    """

    pictures: list[int]
    features: str | None = None

    def draw(self, captions: Sequence[Sequence[str]], rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Tokens of the T views, int64 [T, L].

        Args:
            captions: for each of the anchor's P pictures, all its captions.
            rng: of this sample.
        """
        raise NotImplementedError
