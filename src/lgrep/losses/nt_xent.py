"""Normalised temperature-scaled cross-entropy between two views (SimCLR, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lgrep.losses.checks import check_embeddings, check_temperature
from lgrep.losses.gather import gather_with_gradient, global_rows
from lgrep.losses.precision import full_precision, unit_rows


def nt_xent(view_a: Tensor, view_b: Tensor, temperature: float = 0.1) -> Tensor:
    """Finds the other view of each picture among the 2N - 1 other rows of the global batch.

    Rows of the same index are positives. The loss is the mean over both directions.

    Args:
        view_a: [n, D], unnormalised, this process's rows; n may differ between processes.
        view_b: [n, D], the other view of the same pictures.
        temperature: > 0.

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
    check_temperature(temperature)
    rows = global_rows(view_a.shape[0])
    if rows.total == 0:
        raise ValueError("view_a and view_b have no rows on any process; the loss needs at least one.")
    with full_precision(view_a):
        local_a, local_b = unit_rows(view_a), unit_rows(view_b)
        both = gather_with_gradient(torch.stack([local_a, local_b], dim=1), rows)  # [N, 2, D]
        anchors = torch.cat([local_a, local_b])
        candidates = torch.cat([both[:, 0], both[:, 1]])
        columns = torch.arange(2 * rows.total, device=view_a.device)
        own_a = columns[rows.offset : rows.offset + len(local_a)]
        own_b = own_a + rows.total
        itself = columns == torch.cat([own_a, own_b])[:, None]
        logits = (anchors @ candidates.T / temperature).masked_fill(itself, -torch.inf)  # [2n, 2N]
        total = cross_entropy(logits, torch.cat([own_b, own_a]), reduction="sum")
        return rows.world_size * total / (2 * rows.total)
