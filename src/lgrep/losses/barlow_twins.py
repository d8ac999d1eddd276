"""Redundancy reduction between two views (Barlow Twins)."""

from __future__ import annotations

from torch import Tensor

from lgrep.losses.checks import check_tensor, counted_rows
from lgrep.losses.precision import at_least_float32, full_precision
from lgrep.losses.reduce import replicated_sum


def barlow_twins(
    z1: Tensor, z2: Tensor, off_diagonal_weight: float = 5e-3, scale: float = 0.025, gradient: str = "exact"
) -> Tensor:
    """Brings the cross-correlation of two views close to the identity.

    With C = z1^T z2 / N over the N rows of the global batch::

        scale * (sum_i (C_ii - 1)^2  +  off_diagonal_weight * sum_{i != j} C_ij^2)

    Nothing is centred or scaled here: the last BatchNorm of the head standardises z1 and z2.

    Args:
        z1: [n, D], standardised over the global batch, this process's rows; n may differ between processes.
        z2: [n, D], the other view of the same pictures.
        off_diagonal_weight: lambda of equation 1.
        scale: factor of the whole loss, as in the published code.
        gradient: `exact`, or `local`: the all-reduce of C passes gradients as if it were the identity, as in
            the published code, so that DDP's average is 1/W of the exact gradient.

    Returns:
        Scalar in float32 (float64 for float64 embeddings), the loss of the global batch on every process.
        Keeps a D x D matrix, and none over the rows.

    Raises:
        ValueError: wrong shapes, types or devices, an empty global batch or an unknown `gradient`.

    Paper:
        Zbontar et al., 2021, https://arxiv.org/abs/2103.03230 (equations 1 and 2).

    >>> import torch
    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> float(barlow_twins(z, z)), float(barlow_twins(z, -z, scale=1.0))
    (0.0, 8.0)
    """
    check_tensor("z1", z1, "floating point", ("n", "D"))
    check_tensor("z2", z2, "floating point", tuple(z1.shape), z1.device)
    rows = counted_rows("z1", z1.shape[0])
    with full_precision(z1):
        first = at_least_float32(z1)
        correlation = replicated_sum(first.T @ z2.to(first.dtype) / rows.total, gradient)
        on_diagonal = (correlation.diagonal().clone() - 1).square().sum()
        # zeroed, since subtracting its squares from the sum of all would cancel digits
        off_diagonal = correlation.fill_diagonal_(0).square().sum()
        return scale * (on_diagonal + off_diagonal_weight * off_diagonal)
