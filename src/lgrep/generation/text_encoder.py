"""The text encoder of the emoji generator: word vectors and word parts, then a small transformer."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_QUOTES = str.maketrans("\u2018\u2019", "''")
_PARTS = 24  # hashed parts of a word that are read


class Words(NamedTuple):
    """Captions as numbers, all of the same length.

    Attributes:
        rows: Long [N, L], row of each word in the table of vectors plus 1; 0: none has it.
        parts: Long [N, L, P], buckets of the word's parts plus 1; 0: none. A word has at least one part.
    """

    rows: Tensor
    parts: Tensor

    def to(self, device: torch.device | str) -> Words:
        """The same on another device."""
        return Words(self.rows.to(device), self.parts.to(device))

    def of(self, index: Tensor) -> Words:
        """Those of some captions."""
        return Words(self.rows[index], self.parts[index])


class Condition(NamedTuple):
    """What the denoiser is told.

    Attributes:
        sequence: [N, 1 + L, D], a first token for the caption as a whole, then its words.
        mask: bool [N, 1 + L], which of them are there.
        layout: latents [N, C, S, S] of what drawings of the caption have in common: more of the denoiser's input.
    """

    sequence: Tensor
    mask: Tensor
    layout: Tensor


class CaptionEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Captions of any words -> a sequence and a layout for the denoiser.

    A word is its pre-trained vector (GloVe, kept as int8 and fixed) plus the mean of trained vectors of its hashed
    parts, so that words that no training caption has still mean something. What the denoiser is told besides, the
    designer and the geometric augmentation of the picture, is added to the first token.

    Args:
        words: rows of the table of word vectors.
        letters: bytes of these words, one a line, in UTF-8.
        word_dim: of a word vector.
        width, layers, heads: of the transformer.
        buckets: of hashed parts.
        max_words: words that are read; a caption's further words are dropped.
        designers: their names.
        augmentations: numbers that describe an augmentation.
        layout: C and S of the layout.
        dropout: of the transformer, in training.

    Paper:
        Pennington et al., GloVe, EMNLP 2014; parts of words as in Bojanowski et al. 2017,
        https://arxiv.org/abs/1607.04606.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        words: int,
        letters: int,
        word_dim: int = 50,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        buckets: int = 2048,
        max_words: int = 15,
        designers: Sequence[str] = (),
        augmentations: int = 5,
        layout: tuple[int, int] = (64, 4),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.max_words = max_words
        self.designers = tuple(designers)
        self.register_buffer("word_bytes", torch.zeros(letters, dtype=torch.uint8))
        self.register_buffer("vectors", torch.zeros(words, word_dim, dtype=torch.int8))
        self.register_buffer("steps", torch.ones(word_dim))
        self.of_vector = nn.Linear(word_dim, width)
        self.of_parts = nn.EmbeddingBag(buckets + 1, width, mode="mean", padding_idx=0)
        self.position = nn.Parameter(torch.zeros(1 + max_words, width))
        nn.init.normal_(self.of_parts.weight, std=0.5)
        nn.init.normal_(self.position, std=0.02)
        self.of_picture = nn.Linear(len(self.designers) + augmentations, width, bias=False)
        channels, side = layout
        self.to_layout = nn.Sequential(
            nn.SiLU(), nn.Linear(width, channels * side**2), nn.Unflatten(1, (channels, side, side))
        )
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    @torch.no_grad()
    def set_words(self, words: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Fill the table of word vectors [words, word_dim], in as many steps as int8 has."""
        steps = np.abs(vectors).max(0) / 127
        self.vectors.copy_(torch.from_numpy(np.rint(vectors / steps).astype(np.int8)))
        self.steps.copy_(torch.from_numpy(steps))
        self.word_bytes.copy_(torch.frombuffer(bytearray("\n".join(words).encode()), dtype=torch.uint8))
        self.__dict__.pop("_row_of", None)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        words = bytes(self.word_bytes.cpu().numpy()).decode().split("\n")
        return {word: row for row, word in enumerate(words, 1)}

    def read(self, captions: Sequence[str]) -> Words:
        """Captions as numbers; only the first `max_words` words are read."""
        rows = torch.zeros(len(captions), self.max_words, dtype=torch.long)
        parts = torch.zeros(len(captions), self.max_words, _PARTS, dtype=torch.long)
        for number, caption in enumerate(captions):
            for place, word in enumerate(words_of(caption)[: self.max_words]):
                rows[number, place] = self._row_of.get(word, 0)
                found = torch.tensor(_buckets(word, self.config.buckets))
                parts[number, place, : len(found)] = found
        return Words(rows, parts)

    def forward(self, words: Words, designer: Tensor | None = None, augmentation: Tensor | None = None) -> Condition:
        """What the denoiser is told about N pictures.

        Args:
            words: of their captions, from `read`; where all are short, fewer columns say the same.
            designer: Long [N], -1: not said; None: not said for any.
            augmentation: [N, augmentations]; None: zeros, not augmented.
        """
        rows, parts = words
        vectors = torch.cat([self.vectors.new_zeros(1, self.vectors.shape[1]), self.vectors])[rows]
        told = self.of_vector(vectors.to(self.steps.dtype) * self.steps)
        bags = self.of_parts(parts.flatten(0, 1)).view_as(told)
        there = parts[..., 0] > 0
        first = there.new_ones(len(rows), 1)
        mask = torch.cat([first, there], 1)
        sequence = (
            torch.cat([told.new_zeros(len(rows), 1, told.shape[2]), told + bags], 1) + self.position[: mask.shape[1]]
        )
        sequence = self.transformer(sequence, src_key_padding_mask=~mask) * mask[..., None]
        layout = self.to_layout(sequence[:, 0])  # of the caption alone, whoever draws
        picture = self.of_picture(self._picture(sequence, designer, augmentation))
        sequence = torch.cat([(sequence[:, 0] + picture)[:, None], sequence[:, 1:]], 1)
        return Condition(sequence, mask, layout)

    def _picture(self, like: Tensor, designer: Tensor | None, augmentation: Tensor | None) -> Tensor:
        """[N, designers + augmentations], zeros for what is not said."""
        if designer is None:
            designer = torch.full((len(like),), -1, device=like.device)
        names = torch.arange(len(self.designers), device=like.device)
        if augmentation is None:
            augmentation = like.new_zeros(len(like), self.config.augmentations)
        return torch.cat([(designer[:, None] == names).to(like), augmentation.to(like)], 1)


def words_of(caption: str) -> list[str]:
    """Words of a caption in lower case, without accents.

    >>> words_of("Jalape\u00f1o: it\u2019s \u201chot\u201d")
    ['jalapeno', "it's", 'hot']
    """
    plain = unicodedata.normalize("NFKD", caption.translate(_QUOTES).casefold())
    return _WORD.findall("".join(letter for letter in plain if not unicodedata.combining(letter)))


def _buckets(word: str, buckets: int) -> list[int]:
    """Buckets, from 1, of a word and its parts of three and four letters; the same everywhere."""
    marked = f"<{word}>"
    parts = [marked, *(marked[i : i + n] for n in (3, 4) for i in range(len(marked) - n + 1))]
    return [zlib.crc32(part.encode()) % buckets + 1 for part in parts[:_PARTS]]
