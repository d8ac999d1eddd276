"""Measures of representational collapse: pure functions of a matrix of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def normalised_std(features: Tensor) -> Tensor:
    """Spread of L2-normalised features: standard deviation over samples, averaged over dimensions.

    A collapsed representation gives 0, directions spread evenly over the sphere give `isotropic_std`
    (SimSiam, https://arxiv.org/abs/2011.10566, section 4.1).

    Args:
        features: [N, D], any scale.

    Returns:
        Scalar on the same device.

    >>> float(normalised_std(torch.ones(8, 4)))
    0.0
    """
    return F.normalize(_wide(features), dim=1).std(dim=0, correction=0).mean()


def isotropic_std(dim: int) -> float:
    """`normalised_std` of directions spread evenly in `dim` dimensions: 1 / sqrt(dim).

    >>> isotropic_std(4)
    0.5
    """
    return 1.0 / math.sqrt(dim)


def rankme(features: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Effective rank: exponential of the entropy of the normalised singular values.

    RankMe, equation 1 of https://arxiv.org/abs/2210.02885: `p_k = s_k / sum(s) + epsilon`,
    `exp(-sum p_k log p_k)`. It lies between 1 and min(N, D) (up to epsilon), so values from batches of
    different size do not compare. NaN when a feature is not finite.

    Args:
        features: [N, D], not centred, any scale.
        epsilon: keeps the logarithm finite.

    Returns:
        Scalar on the same device.

    >>> round(float(rankme(torch.eye(5))), 3)
    5.0
    """
    features = _wide(features)
    finite = torch.isfinite(features).all()
    # LAPACK refuses non-finite input; a diverged run must reach its own message instead
    singular = torch.linalg.svdvals(torch.where(finite, features, torch.zeros_like(features)))
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny) + epsilon
    rank = torch.exp(-(share * share.log()).sum())
    return torch.where(finite, rank, torch.full_like(rank, float("nan")))


def pair_cosines(features: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine of positive pairs and of all other pairs, without the N x N matrix.

    Args:
        features: [N, D], any scale.
        group: Long [N]; two samples with equal numbers are positives of each other.

    Returns:
        (mean over positive pairs, mean over other pairs), scalars; NaN where there is no such pair.

    >>> near, far = pair_cosines(torch.tensor([[1.0, 0], [2, 0], [0, 1]]), torch.tensor([7, 7, 9]))
    >>> float(near), float(far)
    (1.0, 0.0)
    """
    unit = F.normalize(_wide(features), dim=1)
    _, member, counts = torch.unique(group, return_inverse=True, return_counts=True)
    sums = unit.new_zeros(len(counts), unit.shape[1]).index_add_(0, member, unit)
    within = sums.square().sum()
    same = counts.square().sum()
    positive = (within - unit.square().sum()) / (same - len(unit))
    other = (unit.sum(dim=0).square().sum() - within) / (len(unit) ** 2 - same)
    return positive, other


def _wide(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()
