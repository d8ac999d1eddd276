"""Prediction of the prototype assignment of another view (SwAV)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from lgrep.losses.checks import check_positive, check_tensor, counted_rows
from lgrep.losses.precision import at_least_float32, full_precision


def swapped_prediction(scores: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """Soft cross-entropy over prototypes between one view's scores and another view's assignment.

    The term l(z_t, q_s) of equation 2; SwAV sums it over both swaps. The softmax runs over the prototypes.
    In SwALIP the other modality's embeddings of the global batch are the prototypes, and the learned scale
    multiplies the scores: pass them multiplied, with temperature 1.

    Args:
        scores: [n, K], similarities of this process's samples with K prototypes (cosines when both are
            normalised, as in SwAV); n may differ between processes.
        targets: [n, K], assignments of another view of the same samples whose rows sum to 1, as from
            `sinkhorn`; no gradient flows to them.
        temperature: > 0.

    Returns:
        Scalar in float32 (float64 for float64 scores): the mean over the global batch on one process. On W
        processes each returns W * (sum of its own rows) / (rows of all).

    Raises:
        ValueError: wrong shapes, types or devices, an empty global batch or a temperature that is not positive.

    Paper:
        Caron et al., SwAV, 2020, https://arxiv.org/abs/2006.09882 (equation 2).

    >>> import torch
    >>> loss = swapped_prediction(torch.zeros(3, 4), torch.full((3, 4), 0.25))
    >>> bool((loss - torch.log(torch.tensor(4.0))).abs() < 1e-6)
    True
    """
    check_tensor("scores", scores, "floating point", ("n", "K"))
    check_tensor("targets", targets, "floating point", tuple(scores.shape), scores.device)
    check_positive(temperature=temperature)
    rows = counted_rows("scores", scores.shape[0])
    with full_precision(scores):
        logits = at_least_float32(scores) / temperature
        total = cross_entropy(logits, targets.detach().to(logits.dtype), reduction="sum")
        return rows.world_size * total / rows.total
