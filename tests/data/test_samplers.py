import numpy as np
import pytest

from lgrep.data.orders import RandomOrder, ShardOrder
from lgrep.data.samplers import ExactBatchSampler, evaluation_batches
from lgrep.errors import ConfigError

ANCHORS = np.arange(100, 153)


def batches(**changes: object) -> list[list[tuple[int, int]]]:
    seed = changes.pop("seed", 3)
    arguments = {"order": RandomOrder(ANCHORS, seed), "batch_size": 8, "total_batches": 20}  # type: ignore[arg-type]
    return list(ExactBatchSampler(**{**arguments, **changes}))  # type: ignore[arg-type]


def test_an_epoch_visits_anchors_once_and_the_next_one_in_another_order() -> None:
    stream = batches()
    epochs = [[anchor for batch in stream for epoch, anchor in batch if epoch == number] for number in (0, 1)]
    for visited in epochs:
        assert len(visited) == len(set(visited)) == 48
        assert set(visited) <= set(ANCHORS)
    assert epochs[0] != epochs[1]
    assert [batch[0][0] for batch in stream] == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 2


def test_another_seed_gives_another_order() -> None:
    assert batches() != batches(seed=4)


@pytest.mark.parametrize("consumed", [0, 1, 5, 6, 7, 13, 20])
def test_continuing_gives_the_rest_of_the_stream(consumed: int) -> None:
    assert batches(consumed=consumed) == batches()[consumed:]


def test_length_counts_from_the_start_of_the_run() -> None:
    assert len(ExactBatchSampler(RandomOrder(ANCHORS, 0), 8, 20, consumed=7)) == 20


@pytest.mark.parametrize("world", [2, 3, 5, 8])
def test_ranks_side_by_side_are_the_single_process_batch(world: int) -> None:
    parts = [batches(rank=rank, world_size=world) for rank in range(world)]
    assert [sum((part[i] for part in parts), []) for i in range(20)] == batches()
    assert all(part[0] for part in parts)


def test_too_few_anchors_and_too_many_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loader\.batch_size=60.*loader\.batch_size=53"):
        batches(batch_size=60)
    with pytest.raises(ConfigError, match=r"loader\.batch_size=9 or more"):
        batches(world_size=9)


SHARDS = np.repeat([4, 0, 2, 7, 1], [20, 3, 1, 9, 20])


def test_the_order_by_shards_opens_few_at_a_time_and_visits_everything_once() -> None:
    order = ShardOrder(ANCHORS, SHARDS, seed=5, window=2)
    shard_of = dict(zip(ANCHORS.tolist(), SHARDS.tolist(), strict=True))
    for epoch in (0, 1):
        visited = order(epoch).tolist()
        assert sorted(visited) == ANCHORS.tolist()
        place: dict[int, list[int]] = {}
        for position, anchor in enumerate(visited):
            place.setdefault(shard_of[anchor], []).append(position)
        spans = sorted((min(positions), max(positions)) for positions in place.values())
        open_at = [sum(low <= position <= high for low, high in spans) for position in range(len(visited))]
        assert max(open_at) <= 2
    assert order(0).tolist() != order(1).tolist()
    assert order(1).tolist() == ShardOrder(ANCHORS, SHARDS, seed=5, window=2)(1).tolist()


def test_a_window_over_all_shards_mixes_everything() -> None:
    visited = ShardOrder(ANCHORS, SHARDS, seed=5, window=9)(0)
    first = np.array([np.flatnonzero(anchor == ANCHORS)[0] for anchor in visited])
    assert len(set(SHARDS[first[:20]].tolist())) >= 3


@pytest.mark.parametrize("count", [0, 1, 5, 6, 12, 13])
@pytest.mark.parametrize(("batch", "world"), [(1, 1), (4, 1), (3, 2), (4, 3), (2, 5)])
def test_evaluation_counts_every_position_once_on_equal_batches(count: int, batch: int, world: int) -> None:
    shares = [evaluation_batches(count, batch, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    counted = [p for share in shares for b in share for p, valid in zip(b.positions, b.valid, strict=True) if valid]
    assert counted == list(range(count))
    assert all(len(b.positions) == batch and (b.positions < max(count, 1)).all() for share in shares for b in share)
