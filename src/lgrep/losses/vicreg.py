"""Variance, invariance and covariance regularisation (VICReg)."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrep.losses.checks import check_tensor, counted_rows
from lgrep.losses.gather import Rows, sum_over_processes
from lgrep.losses.precision import at_least_float32, full_precision
from lgrep.losses.reduce import replicated_sum


def vicreg(
    z1: Tensor,
    z2: Tensor,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    std_target: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """Two views agree, every dimension varies and no two dimensions co-vary.

    With Cov the unbiased D x D covariance of a view over the N rows of the global batch::

        invariance = mean over rows and dimensions of (z1 - z2)^2
        variance   = mean over dimensions of max(0, std_target - sqrt(Cov_dd + eps)), mean of both views
        covariance = sum over pairs of different dimensions of Cov_de^2 / D, sum of both views

    As in the published code the variance term is the mean over the views; equation 6 writes their sum.

    Args:
        z1: [n, D], unnormalised, this process's rows; n may differ between processes.
        z2: [n, D], the other view of the same pictures.
        invariance_weight, variance_weight, covariance_weight: lambda, mu and nu of equation 6.
        std_target: gamma of equation 1.
        eps: added to the variance.

    Returns:
        Scalar in float32 (float64 for float64 embeddings): the loss of the global batch on one process. On W
        processes the mean over processes is the loss of the global batch and the gradient averaged by DDP is
        its exact gradient. Keeps D x D matrices, and none over the rows.

    Raises:
        ValueError: wrong shapes, types or devices, or a global batch of fewer than two rows.

    Paper:
        Bardes et al., 2022, https://arxiv.org/abs/2105.04906 (equations 1 to 6).

    >>> spread = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    >>> float(vicreg(spread, spread)), float(vicreg(spread, spread + 1.0))
    (0.0, 25.0)
    """
    check_tensor("z1", z1, "floating point", ("n", "D"))
    check_tensor("z2", z2, "floating point", tuple(z1.shape), z1.device)
    rows = counted_rows("z1", z1.shape[0], at_least=2)
    with full_precision(z1):
        first = at_least_float32(z1)
        second = z2.to(first.dtype)
        invariance = rows.world_size * (first - second).square().sum() / (rows.total * first.shape[1])
        covariances = _covariances(torch.stack([first, second]), rows)  # [2, D, D]
        variances = covariances.diagonal(dim1=1, dim2=2)
        variance = (std_target - (variances + eps).sqrt()).relu().mean()
        # only the diagonal is taken away, so the large sum over the rest loses no digits
        covariance = (covariances - torch.diag_embed(variances)).square().sum() / first.shape[1]
        return invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance


def _covariances(views: Tensor, rows: Rows) -> Tensor:
    """Unbiased covariances [V, D, D] over the global batch of [V, n, D]."""
    mean = sum_over_processes(views.detach().sum(dim=1, keepdim=True)) / rows.total
    # A covariance does not depend on the shift, so the mean needs no gradient: it only keeps the digits.
    shifted = views - mean
    moments = torch.cat([shifted.transpose(1, 2) @ shifted, shifted.sum(dim=1, keepdim=True)], dim=1)
    products, residual = torch.split(replicated_sum(moments), [views.shape[2], 1], dim=1)  # [V, D, D], [V, 1, D]
    return (products - residual.transpose(1, 2) @ residual / rows.total) / (rows.total - 1)
