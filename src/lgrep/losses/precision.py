"""Similarities are computed in float32 or better, whatever the backbone's precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn.functional import normalize


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of `tensor`."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or in float64 if it comes so.

    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def unit_rows(embeddings: Tensor) -> Tensor:
    """[..., D] scaled to unit length, in float32, or in float64 if it comes so.

    >>> unit_rows(torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16))
    tensor([[0.6000, 0.8000]])
    """
    return normalize(at_least_float32(embeddings), dim=-1)
