"""Text views of an anchor: a caption of one of its pictures, changed by a transform, as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from lgrep.data.text.tokenizers import Tokenizer, build_tokenizer
from lgrep.data.text.transforms import Plain, TextTransform
from lgrep.errors import ConfigError, did_you_mean


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

    Args:
        tokenizer: see `lgrep.data.text.tokenizers.build_tokenizer`.
        context_length: L; None: the tokeniser's own.
        views: entries; empty: no tokens, stored features only.
        transforms: by name; None: `plain` alone.
        caption: which of a picture's captions: `one` (drawn once per sample: all views of the picture share it;
            CLIP-rocket's `single`), `each` (each view draws its own; CLIP-rocket's `multi`) or `first`.
        features: column of the caption table with stored features of a frozen text encoder; None: not used.

    Attributes:
        pictures: for each of the T views, the number of the picture whose caption it shows.
        features: see above.
        tokenizer: of all views; text towers are built from its attributes.

    Raises:
        ConfigError: an unknown transform or tokeniser, or neither views nor features.

    >>> texts = TextViews(context_length=6)
    >>> texts.draw([["a dog", "a photo"]], np.random.default_rng(0)).shape
    (1, 6)
    """

    def __init__(
        self,
        tokenizer: str = "clip",
        context_length: PositiveInt | None = None,
        views: Sequence[TextEntry] = (TextEntry(),),
        transforms: Mapping[str, TextTransform] | None = None,
        caption: Literal["one", "each", "first"] = "one",
        features: str | None = None,
    ) -> None:
        known: Mapping[str, TextTransform] = {"plain": Plain()} if transforms is None else transforms
        self._views = [(entry.picture, _named(known, entry.transform)) for entry in views for _ in range(entry.count)]
        if not self._views and features is None:
            raise ConfigError(
                "text.views is empty and text.features=null: nothing to give. Type text=none or text=clip"
            )
        self.pictures = [picture for picture, _ in self._views]
        self.features = features
        self.caption = caption
        self.tokenizer: Tokenizer = build_tokenizer(tokenizer, context_length)

    def load(self) -> None:
        """Read files now, so that the loading processes share them and what is missing is said early."""
        if self._views:
            self.tokenizer.load()
        for _, transform in self._views:
            getattr(transform, "load", _nothing)()

    def draw(self, captions: Sequence[Sequence[str]], rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Tokens of the T views, int64 [T, L].

        View t draws from a stream of its own, so that it does not depend on the views before it.

        Args:
            captions: for each of the anchor's P pictures, all its captions.
            rng: of this sample; its state is left as it is, apart from the choice of the shared captions.
        """
        shared = [_one(texts, rng) if self.caption == "one" else texts[0] for texts in captions]
        shown: list[str] = []
        for number, (picture, transform) in enumerate(self._views):
            own = np.random.Generator(rng.bit_generator.jumped(number + 1))  # type: ignore[attr-defined]
            text = _one(captions[picture], own) if self.caption == "each" else shared[picture]
            shown.append(transform(text, own))
        return self.tokenizer(shown)


def _nothing() -> None:
    """For transforms that read no files."""


def _one(texts: Sequence[str], rng: np.random.Generator) -> str:
    """One of a picture's captions, all alike."""
    return texts[int(rng.integers(len(texts)))]


def _named(transforms: Mapping[str, TextTransform], name: str) -> TextTransform:
    if name not in transforms:
        raise ConfigError(f"text.views: no transform '{name}' in text.transforms; {did_you_mean(name, transforms)}")
    return transforms[name]
