"""Reconstruction of masked patches (MAE)."""

from __future__ import annotations

from torch import Tensor

from lgrep.losses.checks import check_tensor, counted_rows
from lgrep.losses.gather import sum_over_processes
from lgrep.losses.precision import at_least_float32, full_precision

PATCH_EPS = 1e-6  # added to the variance of a patch, as published


def masked_reconstruction(prediction: Tensor, target: Tensor, mask: Tensor, normalise_target: bool = True) -> Tensor:
    """The mean squared error over the values of masked patches, each patch counting the same.

    Args:
        prediction: [B, L, P], this process's pictures as L patches of P values; B may differ between processes.
        target: [B, L, P], the true values (normalised pictures, not uint8); no gradient flows to them.
        mask: Bool [B, L], true at masked patches, the only ones that count.
        normalise_target: regress (value - mean) / sqrt(variance + 1e-6) of each patch, with the unbiased variance.

    Returns:
        Scalar in float32 (float64 for float64 predictions): the mean over the masked patches of the global
        batch on one process, 0 when there is none. On W processes each returns
        W * (sum of its own patches) / (masked patches of all).

    Raises:
        ValueError: wrong shapes, types or devices, no picture on any process, or patches of one value that
            are to be normalised.

    Paper:
        He et al., MAE, 2022, https://arxiv.org/abs/2111.06377 (section 3).

    >>> import torch
    >>> target, mask = torch.ones(1, 2, 3), torch.tensor([[True, False]])
    >>> float(masked_reconstruction(torch.zeros(1, 2, 3), target, mask, normalise_target=False))
    1.0
    """
    check_tensor("prediction", prediction, "floating point", ("B", "L", "P"))
    check_tensor("target", target, "floating point", tuple(prediction.shape), prediction.device)
    check_tensor("mask", mask, "Bool", tuple(prediction.shape[:2]), prediction.device)
    if normalise_target and prediction.shape[2] == 1:
        raise ValueError("A patch of one value has no variance; got P=1 with normalise_target=True.")
    rows = counted_rows("prediction", prediction.shape[0])
    with full_precision(prediction):
        patches = at_least_float32(target.detach())
        if normalise_target:
            centred = patches - patches.mean(dim=2, keepdim=True)
            patches = centred / (patches.var(dim=2, keepdim=True) + PATCH_EPS).sqrt()
        per_patch = (at_least_float32(prediction) - patches).square().mean(dim=2)
        masked_patches = sum_over_processes(mask.sum()).clamp(min=1)
        # selected, not multiplied, so that a visible patch cannot spoil the sum
        return rows.world_size * per_patch.masked_fill(~mask, 0.0).sum() / masked_patches
