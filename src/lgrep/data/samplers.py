"""The order of training samples: exact, resumable, the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from lgrep.data.randomness import ORDER_STREAM, keyed_generator
from lgrep.errors import ConfigError

SampleKey = tuple[int, int]  # (epoch, anchor)


def check_batch_size(batch_size: int, anchors: int) -> None:
    """Refuse a batch that the data cannot fill.

    Raises:
        ConfigError: fewer anchors than one batch.
    """
    if anchors < batch_size:
        raise ConfigError(
            f"loader.batch_size={batch_size} is more than the {anchors} anchors of the data set. "
            f"Type loader.batch_size={max(1, anchors)} or less"
        )


class ExactBatchSampler(Sampler[list[SampleKey]]):
    """The batches of (epoch, anchor) of a whole run, for one process.

    Every epoch is a permutation keyed by (seed, epoch), cut into global batches; a rank takes a contiguous
    slice of each, so that the ranks' batches side by side are the batch of a single process. The last
    incomplete global batch of an epoch is dropped. One stream holds all epochs: workers never restart
    between them, and the position is one number, the batches consumed, equal on all ranks.

    Args:
        anchors: anchor numbers [A].
        batch_size: anchors per batch over all processes.
        seed: of the run.
        total_batches: batches of the run.
        rank: of this process.
        world_size: number of processes.
        consumed: batches to skip (resume).

    Raises:
        ConfigError: fewer anchors than one batch, or fewer anchors in a batch than processes.
    """

    def __init__(
        self,
        anchors: np.ndarray[Any, Any],
        batch_size: int,
        seed: int,
        total_batches: int,
        rank: int = 0,
        world_size: int = 1,
        consumed: int = 0,
    ) -> None:
        check_batch_size(batch_size, len(anchors))
        if batch_size < world_size:
            raise ConfigError(
                f"loader.batch_size={batch_size} counts the anchors of all processes and must be at least "
                f"their number, {world_size}. Type loader.batch_size={world_size} or more"
            )
        self.anchors = anchors
        self.batch_size = batch_size
        self.seed = seed
        self.total_batches = total_batches
        self.start = batch_size * rank // world_size
        self.stop = batch_size * (rank + 1) // world_size
        self.consumed = consumed

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the anchors."""
        return len(self.anchors) // self.batch_size

    def __len__(self) -> int:
        """Batches of the whole run, skipped ones included (Lightning counts from the run's start)."""
        return self.total_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        current, order = -1, self.anchors
        for batch in range(self.consumed, self.total_batches):
            epoch, place = divmod(batch, self.batches_per_epoch)
            if epoch != current:
                order = keyed_generator(self.seed, epoch, 0, ORDER_STREAM).permutation(self.anchors)
                current = epoch
            begin = place * self.batch_size
            yield [(epoch, int(anchor)) for anchor in order[begin + self.start : begin + self.stop]]
