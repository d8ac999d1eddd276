import numpy as np
import pytest

from lgrep.data.samplers import ExactBatchSampler
from lgrep.errors import ConfigError

ANCHORS = np.arange(100, 153)


def batches(**changes: object) -> list[list[tuple[int, int]]]:
    arguments = {"anchors": ANCHORS, "batch_size": 8, "seed": 3, "total_batches": 20}
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
    assert len(ExactBatchSampler(ANCHORS, 8, 0, 20, consumed=7)) == 20


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
