"""Views of several sizes in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def in_batch_order(rows: Tensor, order: Sequence[int]) -> Tensor:
    """Rows whose views were taken in another order, in the batch's own.

    Args:
        rows: [V * B, D], view-major; the views are those of `order`.
        order: V view numbers.

    >>> in_batch_order(torch.tensor([[2.0], [0.0], [1.0]]), [2, 0, 1]).flatten()
    tensor([0., 1., 2.])
    """
    place = torch.tensor([order.index(v) for v in range(len(order))], device=rows.device)
    return rows.view(len(order), -1, rows.shape[1]).index_select(0, place).flatten(0, 1)
