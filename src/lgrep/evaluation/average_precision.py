"""Average precision as the VOC 2007 challenge measured it."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrep.errors import DataError

RECALLS = 11


def average_precision(scores: Tensor, relevant: Tensor) -> float:
    """11-point interpolated average precision (Everingham et al., 2010, https://doi.org/10.1007/s11263-009-0275-4).

    The mean over recalls 0, 0.1, ..., 1 of the best precision at that recall or a larger one. Items with equal
    scores are taken together, so their order plays no role.

    Args:
        scores: [M].
        relevant: bool [M].

    Raises:
        DataError: nothing is relevant, or a score is NaN.

    >>> round(average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, False, True])), 4)
    0.8485
    """
    count = int(relevant.sum())
    if not count:
        raise DataError("average precision needs at least one relevant item")
    if torch.isnan(scores).any():
        raise DataError("average precision of NaN scores")
    ordered, order = scores.sort(descending=True)
    found = relevant[order].double().cumsum(0)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    seen = torch.arange(1, len(scores) + 1, device=scores.device, dtype=torch.float64)[last]
    recall, precision = found[last] / count, found[last] / seen
    # in whole items: 0.3 * 10 relevant ones is 3, not a shade above
    needed = torch.arange(RECALLS, device=scores.device) * count
    reached = (recall * count).round()[None] * (RECALLS - 1) >= needed[:, None]
    return float(torch.where(reached, precision, 0.0).amax(1).mean())


def mean_average_precision(scores: Tensor, relevant: Tensor) -> float:
    """Mean of `average_precision` over the classes with a relevant item.

    Args:
        scores: [M, K].
        relevant: bool [M, K].
    """
    classes = relevant.any(0).nonzero()[:, 0].tolist()
    if not classes:
        raise DataError("average precision needs at least one relevant item")
    return sum(average_precision(scores[:, k], relevant[:, k]) for k in classes) / len(classes)
