"""Normalised temperature-scaled cross-entropy between two views (SimCLR, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrep.losses.checks import check_embeddings, check_positive, counted_rows
from lgrep.losses.gather import Gradients, check_gradients, gather_keys
from lgrep.losses.partition import log_partition, log_partition_self
from lgrep.losses.precision import full_precision, unit_rows


def nt_xent(
    view_a: Tensor,
    view_b: Tensor,
    temperature: float = 0.1,
    *,
    gather_gradients: Gradients = "exact",
    block: int | None = None,
) -> Tensor:
    """Finds the other view of each picture among the 2N - 1 other rows of the global batch.

    Rows of the same index are positives. The loss is the mean over both directions.

    Args:
        view_a: [n, D], unnormalised, this process's rows; n may differ between processes.
        view_b: [n, D], the other view of the same pictures.
        temperature: > 0.
        gather_gradients: what flows back to rows as candidates of others (`gather_keys`).
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar in float32 (float64 for float64 embeddings): the mean over the 2N anchors on one process. On W
        processes each returns W * (sum of its own anchors) / (2N), so the mean over processes is the loss of
        the global batch and the gradient averaged by DDP is its exact gradient.

    Raises:
        ValueError: wrong shapes or types, an empty global batch or a temperature that is not positive.

    Paper:
        Chen et al., SimCLR, 2020, https://arxiv.org/abs/2002.05709.

    >>> view = torch.eye(3)  # the two views agree, the three pictures are orthogonal: 4 negatives
    >>> loss = nt_xent(view, view, temperature=1.0)
    >>> bool((loss - torch.log(1 + 4 / torch.tensor(1.0).exp())).abs() < 1e-6)
    True
    """
    check_embeddings(view_a=view_a, view_b=view_b)
    check_positive(temperature=temperature)
    check_gradients(gather_gradients)
    rows = counted_rows("view_a and view_b", view_a.shape[0])
    with full_precision(view_a):
        local_a, local_b = unit_rows(view_a), unit_rows(view_b)
        anchors = torch.cat([local_a, local_b])
        if rows.world_size == 1:
            partition = log_partition_self(anchors, 1 / temperature, block)
            attraction = 2 * (local_a * local_b).sum()
        else:
            keys_a, keys_b = gather_keys(torch.stack([local_a, local_b], dim=1), rows, gather_gradients).unbind(1)
            n, own = len(local_a), rows.own
            spans = [(0, n, own.start), (n, 2 * n, rows.total + own.start)]
            partition = log_partition(anchors, torch.cat([keys_a, keys_b]), 1 / temperature, spans, block=block)
            attraction = (local_a * keys_b[own]).sum() + (local_b * keys_a[own]).sum()
        return rows.world_size * (partition.sum() - attraction / temperature) / (2 * rows.total)
