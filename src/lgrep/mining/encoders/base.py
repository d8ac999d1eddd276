"""What turns captions or pictures into vectors, and the registry of its kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lgrep.data.table import Table
from lgrep.errors import ConfigError, did_you_mean

Of = Literal["captions", "pictures"]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder runs.

    Attributes:
        device: where it runs.
        batch_size: captions or pictures per pass.
        precision: of its weights and activations.
        image_size: side of the pictures in px; None: the encoder's own.
        workers: processes that decode pictures.
    """

    device: str = "cpu"
    batch_size: int = 256
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    image_size: int | None = None
    workers: int = 0


class Encoder(Protocol):
    """Vectors of the captions, or of the pictures, of one table.

    Attributes:
        name: in the registry.
        of: what a row is.
        dim: D of the vectors.
        settings: all that defines the vectors besides the table (plain JSON types), with a hash of the weights.
    """

    name: str
    of: Of
    dim: int
    settings: dict[str, Any]

    def encode(self, rows: Sequence[int]) -> Vectors:
        """Vectors float32 [n, D] of captions or pictures of the table, of any length; zeros: there is none."""
        ...


Build = Callable[[str, Table, EncoderOptions], Encoder]
_KINDS: dict[str, tuple[Build, str]] = {}


def register(kind: str, example: str) -> Callable[[Build], Build]:
    """Decorator: make a kind of encoder known as `kind`, or `kind/...`; the function gets what follows the slash."""

    def add(build: Build) -> Build:
        _KINDS[kind] = (build, example)
        return build

    return add


def build_encoder(name: str, table: Table, options: EncoderOptions) -> Encoder:
    """The encoder `name` for the captions or pictures of a table.

    Args:
        name: `minilm`, `features/COLUMN`, `sentence_transformers/NAME`, `open_clip/MODEL/TAG`, `glove`, `bow/FILE`,
            `picture/NAME` or `picture/NAME@SIZE` (side of the pictures in px), or a kind of a user's own module (`register`).
        table: what it encodes.
        options: how it runs.

    Raises:
        ConfigError: an unknown name, or a package or file that is missing; says what to type.
    """
    kind, _, rest = name.partition("/")
    if kind not in _KINDS:
        examples = ", ".join(example for _, example in _KINDS.values())
        raise ConfigError(f"miner.encoder={name}: {did_you_mean(kind, _KINDS)} Type one of {examples}")
    return _KINDS[kind][0](rest, table, options)


def texts_of(table: Table, rows: Sequence[int]) -> list[str]:
    """Texts of captions."""
    if isinstance(rows, range) and rows.step == 1:
        column = table.captions["text"].slice(rows.start, len(rows))
    else:
        column = table.captions["text"].take(list(rows))
    return [str(text) for text in column.to_pylist()]


def digest(*parts: Any) -> str:
    """16 hexadecimal digits over plain values and arrays."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True).encode())
    return hashed.hexdigest()[:16]
