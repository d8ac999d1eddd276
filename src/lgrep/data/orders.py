"""Orders of one epoch's anchors: pure functions of (seed, epoch), so that any process can compute any epoch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lgrep.data.randomness import ORDER_STREAM, keyed_generator

Anchors = np.ndarray[Any, Any]


class EpochOrder(Protocol):
    """Gives the anchors of an epoch in the order in which they are seen; always the same number of them."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int) -> Anchors: ...


class RandomOrder:
    """A permutation of all anchors, keyed by (seed, epoch).

    Args:
        anchors: [A].
        seed: of the run.
    """

    def __init__(self, anchors: Anchors, seed: int) -> None:
        self.anchors = anchors
        self.seed = seed

    def __len__(self) -> int:
        return len(self.anchors)

    def __call__(self, epoch: int) -> Anchors:
        return _generator(self.seed, epoch).permutation(self.anchors)


class ShardOrder:
    """Shards in random order, `window` of them open at a time, and random anchors within a window.

    For archives that are slow to read at random places (network storage, hard disks): every archive is read during
    one window of the epoch and never again, which is what streaming does, but exact and resumable like any order.

    Args:
        anchors: [A].
        shards: [A], number of the archive that holds each anchor's (first) picture.
        seed: of the run.
        window: archives whose anchors are mixed with each other.
    """

    def __init__(self, anchors: Anchors, shards: Anchors, seed: int, window: int = 16) -> None:
        by_shard = np.argsort(shards, kind="stable")
        self.anchors = anchors[by_shard]
        _, self._sizes = np.unique(shards, return_counts=True)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        self.seed = seed
        self.window = window

    def __len__(self) -> int:
        return len(self.anchors)

    def __call__(self, epoch: int) -> Anchors:
        rng = _generator(self.seed, epoch)
        shards = rng.permutation(len(self._sizes))
        windows = (shards[first : first + self.window] for first in range(0, len(shards), self.window))
        return np.concatenate([rng.permutation(np.concatenate([self._of(s) for s in window])) for window in windows])

    def _of(self, shard: int) -> Anchors:
        return self.anchors[self._starts[shard] : self._starts[shard] + self._sizes[shard]]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return keyed_generator(seed, epoch, 0, ORDER_STREAM)
