"""Fixed position embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_positions(dim: int, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """Sine-cosine embeddings [1, prefix + rows * columns, dim] of a grid; zeros for the tokens before it.

    A quarter each of sines and cosines of the column, then of the row, at frequencies 10000^(-4i / dim).

    Args:
        dim: a multiple of 4.
        grid: rows and columns.
        prefix: tokens before the grid, such as the class token.

    Raises:
        ValueError: `dim` is no multiple of 4.

    Paper:
        Chen et al., MoCo v3, 2021, https://arxiv.org/abs/2104.02057; He et al., MAE, https://arxiv.org/abs/2111.06377.

    >>> sincos_positions(8, (2, 3), prefix=1).shape
    torch.Size([1, 7, 8])
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4; got {dim}.")
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (columns, rows)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([waves.new_zeros(prefix, dim), waves])[None].float()
