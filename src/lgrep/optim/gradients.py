"""Norm of gradients, and clipping by it, for whole and for divided parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together; sharded ones count over all processes (a collective)."""
    plain = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    norms = [torch.nn.utils.get_total_norm(plain)] if plain else []
    if sharded:
        total = torch.nn.utils.get_total_norm(sharded)
        norms.append(total.full_tensor() if isinstance(total, DTensor) else total)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def clip_gradients(gradients: Sequence[Tensor], largest: float) -> Tensor:
    """Scales all gradients, in place, so that their norm together is `largest` at most; the host does not wait.

    Args:
        gradients: of all parameters.
        largest: norm that is allowed, > 0.

    Returns:
        The norm before, a scalar.

    >>> gradients = [torch.full((4,), 3.0), torch.full((4,), 4.0)]
    >>> clip_gradients(gradients, 1.0)
    tensor(10.)
    >>> gradient_norm(gradients)
    tensor(1.0000)
    """
    norm = gradient_norm(gradients)
    share = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(share.to(gradient.dtype))
    return norm
