"""Which samples make a batch: exact, resumable, the same for any number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from lgrep.data.orders import EpochOrder
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


def check_shares(batch_size: int, world_size: int) -> None:
    """Refuse a batch of which some process would get nothing.

    Raises:
        ConfigError: fewer anchors than processes.
    """
    if batch_size < world_size:
        raise ConfigError(
            f"loader.batch_size={batch_size} counts the anchors of all processes and must be at least "
            f"their number, {world_size}. Type loader.batch_size={world_size} or more"
        )


class ExactBatchSampler(Sampler[list[SampleKey]]):
    """The batches of (epoch, anchor) of a whole run, for one process.

    Every epoch's order is a function of (seed, epoch), cut into global batches; a rank takes a contiguous
    slice of each, so that the ranks' batches side by side are the batch of a single process. The last
    incomplete global batch of an epoch is dropped. One stream holds all epochs: workers never restart
    between them, and the position is one number, the batches consumed, equal on all ranks.

    Args:
        order: the anchors of every epoch.
        batch_size: anchors per batch over all processes.
        total_batches: batches of the run.
        rank: of this process.
        world_size: number of processes.
        consumed: batches to skip (resume).

    Raises:
        ConfigError: fewer anchors than one batch, or fewer anchors in a batch than processes.
    """

    def __init__(
        self,
        order: EpochOrder,
        batch_size: int,
        total_batches: int,
        rank: int = 0,
        world_size: int = 1,
        consumed: int = 0,
    ) -> None:
        check_batch_size(batch_size, len(order))
        check_shares(batch_size, world_size)
        self.order = order
        self.batch_size = batch_size
        self.total_batches = total_batches
        self.start = batch_size * rank // world_size
        self.stop = batch_size * (rank + 1) // world_size
        self.consumed = consumed

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the anchors."""
        return len(self.order) // self.batch_size

    def __len__(self) -> int:
        """Batches of the whole run, skipped ones included (Lightning counts from the run's start)."""
        return self.total_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        current, anchors = -1, np.empty(0, dtype=np.int64)
        for batch in range(self.consumed, self.total_batches):
            epoch, place = divmod(batch, self.batches_per_epoch)
            if epoch != current:
                anchors, current = self.order(epoch), epoch
            begin = place * self.batch_size
            yield [(epoch, int(anchor)) for anchor in anchors[begin + self.start : begin + self.stop]]


@dataclass(frozen=True)
class EvaluationBatch:
    """Positions that one process looks at together.

    Attributes:
        positions: Long [B]; as many on every process.
        valid: bool [B]; False marks repetitions that only fill the batch and must not be counted.
    """

    positions: np.ndarray[tuple[int], np.dtype[np.int64]]
    valid: np.ndarray[tuple[int], np.dtype[np.bool_]]


def evaluation_batches(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[EvaluationBatch]:
    """Every position once, in order, cut into batches of one size: for evaluation only, training never pads.

    A process takes a contiguous share. All processes get the same number of batches of the same size, so that
    collectives match; what is missing is filled with the last position, marked as not valid.

    Args:
        count: number of samples.
        batch_size: samples per process and batch.
        rank: of this process.
        world_size: number of processes.

    >>> [(batch.positions.tolist(), batch.valid.tolist()) for batch in evaluation_batches(5, 2, rank=1, world_size=2)]
    [([3, 4], [True, True]), ([4, 4], [False, False])]
    """
    share = -(-count // world_size)
    whole = -(-share // batch_size) * batch_size
    positions = rank * share + np.arange(whole, dtype=np.int64)
    valid = (np.arange(whole) < share) & (positions < count)
    positions = np.minimum(positions, min(max(count - 1, 0), (rank + 1) * share - 1))
    cuts = range(0, whole, batch_size) if count else range(0)
    return [EvaluationBatch(positions[i : i + batch_size], valid[i : i + batch_size]) for i in cuts]
