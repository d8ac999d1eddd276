"""Contrastive loss with any number of positives per anchor (StableRep, equations 1 to 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrep.losses.checks import check_embeddings, check_temperature
from lgrep.losses.gather import gather, gather_with_gradient, global_rows, sum_over_processes
from lgrep.losses.precision import full_precision, unit_rows


def multi_positive_contrastive(
    features: Tensor, labels: Tensor, temperature: float = 0.1, ignore_lonely: bool = False
) -> Tensor:
    """Cross-entropy between the similarity softmax and a uniform distribution over the positives.

    For anchor i with positives P(i), the other rows of the global batch with the same label, and with unit
    embeddings z, the loss is::

        log sum_{j != i} exp(z_i z_j / t)  -  mean_{p in P(i)} z_i z_p / t

    An anchor without a positive counts 0. The lower bound is ln |P(i)|, so ln(V - 1) for V views.

    Args:
        features: [n, D], unnormalised, this process's rows; n may differ between processes.
        labels: Long [n]; equal labels mark positives, on whichever process they lie.
        temperature: t > 0.
        ignore_lonely: leave anchors without a positive out of the mean instead of counting them as 0.

    Returns:
        Scalar in float32 (float64 for float64 features): the mean over the global batch on one process. On W
        processes each returns W * (sum of its own anchors) / (anchors of all), so the mean over processes is
        the loss of the global batch and the gradient averaged by DDP is its exact gradient.

    Raises:
        ValueError: wrong shapes or types, an empty global batch or a temperature that is not positive.

    Paper:
        Tian et al., StableRep, 2023, https://arxiv.org/abs/2306.00984. With `ignore_lonely` the per-anchor
        term is also L_out of Khosla et al., 2020, https://arxiv.org/abs/2004.11362 (equation 2).

    >>> views = torch.eye(2).repeat(3, 1)  # three equal views of two orthogonal pictures
    >>> loss = multi_positive_contrastive(views, torch.tensor([0, 1, 0, 1, 0, 1]), temperature=0.05)
    >>> bool((loss - torch.log(torch.tensor(2.0))).abs() < 1e-6)
    True
    """
    check_embeddings(features=features)
    check_temperature(temperature)
    if labels.shape != features.shape[:1] or labels.dtype != torch.long:
        raise ValueError(
            f"labels must be Long [{features.shape[0]}], one per row of features, "
            f"got {labels.dtype} {list(labels.shape)}."
        )
    rows = global_rows(features.shape[0])
    if rows.total == 0:
        raise ValueError("features has no rows on any process; the loss needs at least one.")
    with full_precision(features):
        local = unit_rows(features)
        similarity = local @ gather_with_gradient(local, rows).T / temperature  # [n, N]
        columns = torch.arange(rows.total, device=features.device)
        itself = columns == columns[rows.offset : rows.offset + len(local), None]
        positive = (labels[:, None] == gather(labels, rows=rows)) & ~itself
        num_positives = positive.sum(dim=1)
        lonely = num_positives == 0

        # a lonely anchor keeps its own column, so that no row of the softmax is empty
        excluded = itself & ~lonely[:, None]
        log_partition = similarity.masked_fill(excluded, -torch.inf).logsumexp(dim=1)
        attraction = (similarity * positive).sum(dim=1) / num_positives.clamp(min=1)
        per_anchor = (log_partition - attraction).masked_fill(lonely, 0.0)

        anchors: Tensor | int = rows.total
        if ignore_lonely:
            anchors = sum_over_processes((~lonely).sum()).clamp(min=1)
        return rows.world_size * per_anchor.sum() / anchors
