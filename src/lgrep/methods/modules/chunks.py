"""Any batch on any device: the backbone sees pieces of the batch and is run again in the backward pass.

Heads and losses see the features of the whole batch once, so the gradient is that of the whole batch; only one piece's
activations and augmented pictures exist at a time (activation checkpointing, https://arxiv.org/abs/1604.06174, in the
place of gradient caching, https://arxiv.org/abs/2101.06983: one backward, and random numbers are drawn again alike).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lgrep.data.batch import Batch


def encode_in_chunks(backbone: nn.Module, batch: Batch) -> Tensor:
    """Features [V * B, D] of a batch whose views come in pieces, view-major."""

    def piece(view: int, number: int) -> Tensor:
        features: Tensor = backbone(batch.piece(view, number))
        return features

    features = [
        checkpoint(piece, view, number, use_reentrant=False, context_fn=restoring_statistics(backbone))
        for view in range(batch.num_views)
        for number in range(batch.num_pieces)
    ]
    return torch.cat(features)


def restoring_statistics(
    network: nn.Module,
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """What `torch.utils.checkpoint` wants as `context_fn`: the second run leaves BatchNorm's statistics alone."""
    return lambda: (nullcontext(), kept_statistics(network))


@contextmanager
def kept_statistics(backbone: nn.Module) -> Iterator[None]:
    """BatchNorm layers leave with the running statistics that they came with: the second run must not count."""
    layers = [layer for layer in backbone.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    before = [[buffer.clone() for buffer in layer.buffers(recurse=False)] for layer in layers]
    try:
        yield
    finally:
        for layer, values in zip(layers, before, strict=True):
            for buffer, value in zip(layer.buffers(recurse=False), values, strict=True):
                buffer.copy_(value)


def has_batchnorm(backbone: nn.Module) -> bool:
    """Whether the features of a picture depend on the others of its pass."""
    return any(isinstance(layer, _BatchNorm) for layer in backbone.modules())
