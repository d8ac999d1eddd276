"""Pictures that went wrong, and fingerprints that find near-duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

OK, NAN, BLACK, UNIFORM, UNSAFE = "ok", "nan", "black", "uniform", "unsafe"
BROKEN = (NAN, BLACK, UNIFORM)  # drawn again; an unsafe picture is not
_DARK = 4  # of 255
_SPREAD = 4


def to_bytes(images: Tensor, truncate: bool = False) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels and what is wrong with them.

    Args:
        images: [B, 3, H, W], black 0, white 1.
        truncate: round down instead of to the nearest.

    Returns:
        uint8 [B, H, W, 3], and per picture `ok`, `nan` (any value is not finite), `black` (none above 4 of 255) or
        `uniform` (no channel spreads over more than 4 of 255).

    >>> to_bytes(torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2), torch.full((3, 2, 2), torch.nan)]))[1]
    ['black', 'uniform', 'nan']
    """
    images = images.detach().float()
    finite = images.isfinite().flatten(1).all(1)
    scaled = images.nan_to_num(0.0).clamp(0, 1) * 255
    pixels = (scaled if truncate else scaled.round()).to(torch.uint8)
    flat = pixels.flatten(2)
    most, least = flat.amax(2), flat.amin(2)
    dark = most.amax(1) <= _DARK
    plain = (most.int() - least.int()).amax(1) <= _SPREAD
    verdict = torch.where(~finite, 3, torch.where(dark, 2, torch.where(plain, 1, 0))).tolist()
    names = (OK, UNIFORM, BLACK, NAN)
    array: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array, [names[number] for number in verdict]


def difference_hash(picture: Image.Image) -> int:
    """64 bits: in an 8 x 9 grey thumbnail, which pixels are brighter than their right neighbours."""
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def near_duplicates(group: NDArray[Any], hashes: NDArray[np.uint64], distance: int) -> NDArray[np.bool_]:
    """Rows that differ in at most `distance` bits from an earlier row of their group that is kept.

    Args:
        group: [N] ascending.
        hashes: [N] of `difference_hash`.
        distance: 0 to 64 bits.

    >>> near_duplicates(np.array([0, 0, 1]), np.array([5, 4, 5], np.uint64), 1).tolist()
    [False, True, False]
    """
    dropped = np.zeros(len(group), bool)
    ends = np.flatnonzero(np.diff(group, append=-1)) + 1
    start = 0
    for end in ends:
        kept: list[int] = []
        for row in range(start, int(end)):
            apart = np.bitwise_count(hashes[kept] ^ hashes[row])
            dropped[row] = bool((apart <= distance).any())
            if not dropped[row]:
                kept.append(row)
        start = int(end)
    return dropped
