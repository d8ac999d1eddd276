"""Losses as pure functions of embeddings: no heads, no data, no state.

Embeddings come unnormalised unless said and are normalised inside in float32 or better. With several
processes each function sees the global batch of the default group and returns
`W * (sum over the local rows) / (rows of all)`: the mean over processes is the loss of the global batch and
DDP's average its exact gradient.
"""

from lgrep.losses.gather import Rows, gather, gather_with_gradient, global_rows, row_offset, world
from lgrep.losses.multi_positive import multi_positive_contrastive
from lgrep.losses.nt_xent import nt_xent

__all__ = [
    "Rows",
    "gather",
    "gather_with_gradient",
    "global_rows",
    "multi_positive_contrastive",
    "nt_xent",
    "row_offset",
    "world",
]
