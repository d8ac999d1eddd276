"""CLIP's byte-pair tokens, with the ids of a word kept, as captions repeat few words."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from lgrep.data.text.cleaning import clean_text, needed
from lgrep.errors import ConfigError

CONTEXT = 77
VOCABULARY = 49408
START, END = VOCABULARY - 2, VOCABULARY - 1
SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORDS_KEPT = 1 << 16  # ids of so many words are kept per process
LONGEST_WORD = 4096  # bytes that are merged of one word: merging takes quadratic time, and 75 ids are kept at most

Ids = tuple[int, ...]


class BytePairs:
    """Ids of texts under CLIP's vocabulary (Radford et al., arXiv 2103.00020), equal to open_clip's.

    The merges are read from the file that open_clip ships, without importing open_clip.
    """

    def __init__(self) -> None:
        symbols, merges = _vocabulary()
        self._ids = {symbol: number for number, symbol in enumerate(symbols)}
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._kept: dict[str, Ids] = {}
        self._letters = _letters()
        self._find: Any = needed("regex").compile("|".join((*SPECIAL, WORD)), needed("regex").IGNORECASE).finditer

    def encode(self, text: str, most: int) -> list[int]:
        """The first `most` ids of a text, without start and end.

        >>> BytePairs().encode("A photo!", 75)
        [320, 1125, 256]
        """
        ids: list[int] = []
        for match in self._find(clean_text(text)):
            word = match.group()
            found = self._kept.get(word)
            ids.extend(self._of(word) if found is None else found)
            if len(ids) >= most:
                break
        return ids[:most]

    def _of(self, word: str) -> Ids:
        if word in SPECIAL:
            return (SPECIAL[word],)
        letters = [self._letters[byte] for byte in word.encode()[:LONGEST_WORD]]
        letters[-1] += "</w>"
        ids = tuple(self._ids[symbol] for symbol in self._merged(letters))
        if len(self._kept) >= WORDS_KEPT:
            self._kept.clear()
        self._kept[word] = ids
        return ids

    def _merged(self, symbols: list[str]) -> list[str]:
        """Symbols after all merges, the earliest of the vocabulary first."""
        never = len(self._ranks)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, never))
            if best not in self._ranks:
                break
            symbols = list(_joined(symbols, *best))
        return symbols


def _joined(symbols: list[str], first: str, second: str) -> Iterable[str]:
    """The symbols with each `first` that `second` follows joined to it, from the left."""
    place, last = 0, len(symbols) - 1
    while place <= last:
        if place < last and symbols[place] == first and symbols[place + 1] == second:
            yield first + second
            place += 2
        else:
            yield symbols[place]
            place += 1


@cache
def byte_pairs() -> BytePairs:
    """The one `BytePairs` of a process."""
    return BytePairs()


def _letters() -> list[str]:
    """A printable letter for each byte; those that are not printable follow after U+0100 (GPT-2's table)."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Symbols in the order of their ids, and merges in the order of their priority."""
    lines = gzip.decompress(_file().read_bytes()).decode("utf-8").split("\n")
    merges = [(first, second) for first, second in (line.split() for line in lines[1 : VOCABULARY - 512 - 1])]
    letters = _letters()
    alphabet = sorted(letters, key=lambda letter: (ord(letter) >= 256, ord(letter)))
    ends = [letter + "</w>" for letter in alphabet]
    return [*alphabet, *ends, *(a + b for a, b in merges), *SPECIAL], merges


def _file() -> Path:
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ConfigError("text.tokenizer=clip needs open_clip's vocabulary: pip install 'lgrep[clip]'")
    return Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
