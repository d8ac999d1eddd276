"""What a text view does to its caption before it becomes tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field, NonNegativeFloat

from lgrep.data.text.cleaning import clean_text
from lgrep.data.text.synonyms import WORDNET, Synonyms, load_synonyms
from lgrep.data.text.words import STOP_WORDS, split_words
from lgrep.errors import ConfigError

Probability = Annotated[float, Field(ge=0, le=1)]
SWAP_DRAWS = 3  # EDA draws a fourth second place, but never uses it


class TextTransform(Protocol):
    """A caption -> a caption; every random choice comes from the generator that is given.

    One with a method `load()` gets it called before the loading processes start.
    """

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """The changed caption; never empty unless `text` is."""
        ...


class Plain:
    """The caption as it is (the tokeniser cleans it)."""

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        return text


class CaptionAugment:
    """CLIP-rocket's text augmentation (arXiv 2305.08675): cleaning, stop words out, then at most one of four operations.

    The four weights are shares of their sum, not independent probabilities; all zero: no operation (the weak view).
    The operations are those of EDA (Wei & Zou 2019, D19-1670) as `textaugment` 1.3.4 does them. `docs/text.md` lists
    the probabilities and the differences.

    Args:
        clean: repair, unescape and lower-case the caption first, as the tokeniser does afterwards anyway; stop words
            are then found beside odd blanks and HTML entities, and capitals do not hide words from the synonyms.
        stop_words: probability of leaving out all stop words of a caption.
        identity: weight of leaving the caption as it then is.
        synonym: weight of replacing one word, wherever it stands, by a synonym.
        swap: weight of exchanging two words.
        deletion: weight of leaving words out.
        deletion_share: probability with which `deletion` leaves a word out.
        synonyms: where synonyms come from; see `lgrep.data.text.synonyms.load_synonyms`.

    Raises:
        ConfigError: `synonyms` is no file or folder.
    """

    def __init__(
        self,
        clean: bool = False,
        stop_words: Probability = 0.8,
        identity: NonNegativeFloat = 0.0,
        synonym: NonNegativeFloat = 0.0,
        swap: NonNegativeFloat = 0.0,
        deletion: NonNegativeFloat = 0.0,
        deletion_share: Probability = 0.1,
        synonyms: str = WORDNET,
    ) -> None:
        if synonyms != WORDNET and not Path(synonyms).exists():
            raise ConfigError(
                f"synonyms={synonyms}: there is no such file or folder. Type synonyms={WORDNET}, or its path"
            )
        self.clean = clean
        self.stop_words = stop_words
        self.synonyms = synonyms
        self.deletion_share = deletion_share
        self._limits = np.cumsum([identity, synonym, swap, deletion])

    def load(self) -> None:
        """Read the synonyms now, if there is a use for them."""
        if self._limits[1] > self._limits[0]:
            load_synonyms(self.synonyms)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        if self.clean:
            text = clean_text(text)
        if rng.random() < self.stop_words:
            text = without_stop_words(text)
        return self._operate(text, rng) or text

    def _operate(self, text: str, rng: np.random.Generator) -> str:
        if not self._limits[-1]:
            return text
        chosen = int(np.searchsorted(self._limits, rng.random() * self._limits[-1], side="right"))
        operations: tuple[Callable[[], str], ...] = (
            lambda: text,
            lambda: replace_word(text, rng, load_synonyms(self.synonyms)),
            lambda: swap_words(text, rng),
            lambda: delete_words(text, rng, self.deletion_share),
        )
        return operations[min(chosen, len(operations) - 1)]()  # rounding may reach the last limit


@lru_cache(maxsize=64)  # the views of a sample ask for the same caption one after the other
def without_stop_words(text: str) -> str:
    """The words that are no English stop words, with one blank between them; the caption itself if none is left.

    >>> without_stop_words("The dog is on the mat.")
    'dog mat .'
    """
    return " ".join(word for word in split_words(text) if word.lower() not in STOP_WORDS) or text


def replace_word(text: str, rng: np.random.Generator, synonyms: Synonyms) -> str:
    """One word that has synonyms and is no stop word replaced by one of them, at all its places.

    Stop words with capitals count as words here, as in EDA.
    """
    words = text.split()
    candidates = [word for word in dict.fromkeys(words) if word not in STOP_WORDS]
    for place in rng.permutation(len(candidates)):
        names = synonyms(candidates[place])
        if names:
            name = names[rng.integers(len(names))]
            words = [name if word == candidates[place] else word for word in words]
            break
    return " ".join(words)


def swap_words(text: str, rng: np.random.Generator) -> str:
    """Two words exchanged; with probability n^-3 (n words) no second place is found and nothing changes."""
    words = text.split()
    if not words:
        return text
    first = int(rng.integers(len(words)))
    second = next((int(place) for place in rng.integers(0, len(words), SWAP_DRAWS) if place != first), first)
    words[first], words[second] = words[second], words[first]
    return " ".join(words)


def delete_words(text: str, rng: np.random.Generator, share: float) -> str:
    """Each word left out with probability `share`; a single word stays, and one of several always does."""
    words = text.split()
    if len(words) < 2:
        return text
    kept = [word for word, number in zip(words, rng.random(len(words)), strict=True) if number >= share]
    return " ".join(kept) if kept else words[int(rng.integers(len(words)))]
