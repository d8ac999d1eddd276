"""Sums over the processes that carry gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgrep.losses.gather import world

GRADIENTS = ("exact", "local")


def replicated_sum(tensor: Tensor, gradient: str = "exact") -> Tensor:
    """The sum over processes of a statistic from which every process computes the same loss.

    Each process gets the same gradient for the sum, so the backward pass needs no communication: its own
    gradient times the number of processes is the sum that an all-reduce would give, and DDP's average of it
    is the exact gradient.

    Args:
        tensor: floating point, of one shape on all processes.
        gradient: `exact`, or `local`: without that factor, so 1/W of the exact gradient after DDP's average.

    Raises:
        ValueError: another `gradient`.

    >>> replicated_sum(torch.ones(2))
    tensor([1., 1.])
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}.")
    size = world()[1]
    if size == 1:
        return tensor
    total: Tensor = _ReplicatedSum.apply(tensor, size if gradient == "exact" else 1)
    return total


class _ReplicatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
