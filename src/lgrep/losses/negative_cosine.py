"""Cosine regression of a target embedding (BYOL, SimSiam)."""

from __future__ import annotations

from torch import Tensor

from lgrep.losses.checks import check_tensor, counted_rows
from lgrep.losses.precision import full_precision, unit_rows


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of 2 - 2 cos(prediction, target), which is the squared distance of the unit vectors.

    BYOL's loss of one direction (equation 2). SimSiam's objective, the mean over both directions of -cos, is
    a quarter of the sum of both directions, less 1.

    Args:
        prediction: [n, D], unnormalised, this process's rows; n may differ between processes.
        target: [n, D], unnormalised; no gradient flows to it.

    Returns:
        Scalar in [0, 4], in float32 (float64 for float64 predictions): the mean over the global batch on one
        process. On W processes each returns W * (sum of its own rows) / (rows of all).

    Raises:
        ValueError: wrong shapes, types or devices, or an empty global batch.

    Paper:
        Grill et al., BYOL, 2020, https://arxiv.org/abs/2006.07733; Chen & He, SimSiam, 2021,
        https://arxiv.org/abs/2011.10566 (equation 1).

    >>> import torch
    >>> float(negative_cosine(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
    1.0
    """
    check_tensor("prediction", prediction, "floating point", ("n", "D"))
    check_tensor("target", target, "floating point", tuple(prediction.shape), prediction.device)
    rows = counted_rows("prediction", prediction.shape[0])
    with full_precision(prediction):
        unit = unit_rows(prediction)
        cosine = (unit * unit_rows(target.detach()).to(unit.dtype)).sum(dim=1)
        return rows.world_size * (2 - 2 * cosine).sum() / rows.total
