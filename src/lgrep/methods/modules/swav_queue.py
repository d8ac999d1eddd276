"""SwAV's queues of earlier embeddings, one per assigned view."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgrep.losses.gather import world
from lgrep.methods.modules.queue import FeatureQueue


class AssignmentQueue(nn.Module):
    """The last embeddings of each assigned view; every process holds all of them and brings its share to Sinkhorn.

    Args:
        size: embeddings per view over all processes.
        dim: width D.
        views: views that have a queue.
    """

    def __init__(self, size: int, dim: int, views: int = 2) -> None:
        super().__init__()
        self.views = nn.ModuleList(FeatureQueue(size, dim) for _ in range(views))

    def of(self, view: int) -> FeatureQueue:
        """The queue of a view."""
        queue = self.views[view]
        assert isinstance(queue, FeatureQueue)
        return queue

    def share(self, view: int) -> Tensor:
        """This process's contiguous share [n, D] of a view's queue; views beyond the queues have none."""
        if view >= len(self.views):
            return self.of(0).features[:0]
        rank, size = world()
        held = self.of(view).features
        rows = len(held)
        return held[rows * rank // size : rows * (rank + 1) // size]

    @torch.no_grad()
    def push(self, view: int, units: Tensor) -> None:
        """Adds the embeddings [n, D] of all processes. A collective."""
        if view < len(self.views):
            self.of(view).push(units)
