"""A queue of recent embeddings, the same on all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lgrep.losses.gather import gather

_BLOCK = 2**24  # similarities that are looked at together


class FeatureQueue(nn.Module):
    """The last `size` unit embeddings of all processes, oldest overwritten first.

    It starts with random directions. Processes start equal (one seed, or DDP's broadcast of buffers) and updates keep
    them equal. It is part of the checkpoint.

    Args:
        size: entries.
        dim: width D.
        wrap: True writes a batch that reaches the end on at the start; False drops what does not fit and goes back to
            the start, as lightly's memory bank does.

    Paper:
        Dwibedi et al., NNCLR, 2021, https://arxiv.org/abs/2104.14548 (support set).

    >>> queue = FeatureQueue(size=3, dim=2)
    >>> queue.push(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    >>> queue.nearest(torch.tensor([[0.1, 5.0]]))
    tensor([[0., 1.]])
    """

    features: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, wrap: bool = True) -> None:
        super().__init__()
        self.wrap = wrap
        self.register_buffer("features", normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def nearest(self, queries: Tensor) -> Tensor:
        """The entry [n, D] most similar to each query [n, D] (any length)."""
        rows = max(1, _BLOCK // len(self.features))
        found = [(part.to(self.features) @ self.features.T).argmax(dim=1) for part in torch.split(queries, rows)]
        return self.features[torch.cat(found)]

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Writes the rows [n, D] of all processes, in rank order. A collective: every process has to call it."""
        new = normalize(gather(features.detach().to(self.features)), dim=1)
        size = len(self.features)
        place = torch.arange(size, device=new.device) - self.pointer
        if self.wrap:
            new, place = new[-size:], place % size
        fresh = (place >= 0) & (place < len(new))
        source = place.clamp(0, len(new) - 1)
        self.features.copy_(torch.where(fresh[:, None], new[source], self.features))
        end = self.pointer + len(new)
        self.pointer.copy_(end % size if self.wrap else torch.where(end < size, end, torch.zeros_like(end)))
