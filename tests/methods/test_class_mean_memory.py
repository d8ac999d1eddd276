"""t-ReX's memory: published class means and FIFO, processes, no host waits, bad input."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from exactness import DOUBLE, close, golden, slices, value_and_gradients
from torch.nn.functional import cross_entropy

from lgrep.losses import cosine_softmax_logits
from lgrep.methods.modules.class_mean_memory import ClassMeanMemory


def filled(features, labels, num_classes, pointer=0):
    memory = ClassMeanMemory(*features.shape, num_classes).to(features.dtype)
    memory.load_state_dict({"features": features, "labels": labels, "pointer": torch.tensor(pointer)})
    return memory


def state(memory):
    return memory.features, memory.labels, memory.pointer


def test_class_mean_golden(goldens):
    case = goldens["trex_ocm"]["b6"]
    memory = filled(*golden(case, "in", "memory_features", "memory_labels"), num_classes=5)
    embedding, labels = golden(case, "in", "embedding", "labels")

    def logits(z):
        return cosine_softmax_logits(z, memory.class_weights(), float(case["in"]["temperature"]))

    close([memory.class_weights(), logits(embedding)], golden(case, "out", "class_weights", "logits"), 1e-6)
    got = value_and_gradients(lambda z: cross_entropy(logits(z), labels), embedding)
    close(got, golden(case, "out", "loss", "grad_embedding"), 1e-6)


def test_wraparound_golden(goldens):
    case = goldens["trex_ocm"]["wraparound"]
    memory = filled(
        *golden(case, "in", "memory_features", "memory_labels"), num_classes=5, pointer=int(case["in"]["pointer"])
    )
    memory.update(*golden(case, "in", "new_features", "new_labels"))
    close(state(memory), golden(case, "out", "memory_features", "memory_labels", "pointer"), 0)


@pytest.mark.parametrize("batches", [[3, 3, 3], [4, 4], [8], [11], [5, 4, 0, 3], [1] * 9])
def test_fifo_one_row_at_a_time(batches):
    """A batch stops at the end of the memory; the rest of it is dropped."""
    memory = ClassMeanMemory(8, 2, 4)
    features, labels = list(memory.features), memory.labels.tolist()
    place = 0
    for rows in batches:
        new_features, new_labels = torch.randn(rows, 2), torch.randint(4, (rows,))
        memory.update(new_features, new_labels)
        queue = deque(zip(new_features, new_labels.tolist(), strict=True))
        while queue and place < 8:
            features[place], labels[place] = queue.popleft()
            place += 1
        place %= 8
        assert torch.equal(memory.features, torch.stack(features))
        assert memory.labels.tolist() == labels
        assert int(memory.pointer) == place


def test_class_weights_by_hand_with_an_empty_class():
    features, labels = torch.randn(6, 3, dtype=DOUBLE), torch.tensor([0, 2, 2, 0, 3, 2])
    weights = filled(features, labels, num_classes=4).class_weights()
    for label in (0, 2, 3):
        total = sum(row for row, each in zip(features, labels.tolist(), strict=True) if each == label)
        torch.testing.assert_close(weights[label], total / total.norm())
    assert not weights[1].any()
    assert not weights.requires_grad


def test_features_are_stored_detached_in_the_memory_type():
    memory = ClassMeanMemory(4, 2, 3)
    memory.update(torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True), torch.tensor([1, 2]))
    assert memory.features.dtype == torch.float32
    assert not memory.features.requires_grad
    assert torch.equal(memory.features[:2], torch.ones(2, 2))


def test_buffers_keep_their_place_so_that_a_checkpoint_and_a_wrapper_see_them():
    memory = ClassMeanMemory(4, 2, 3)
    assert list(memory.state_dict()) == ["features", "labels", "pointer"]
    places = [tensor.data_ptr() for tensor in state(memory)]
    memory.update(torch.ones(3, 2), torch.tensor([0, 1, 2]))
    assert [tensor.data_ptr() for tensor in state(memory)] == places


def shard(rank, start, batches, counts):
    memory = filled(*start, num_classes=5, pointer=3)
    for features, labels in batches:
        own = slices(counts)[rank]
        memory.update(features[own], labels[own])
    return state(memory)


@pytest.mark.parametrize("counts", [(4, 4), (7, 1), (2, 5, 1), (3, 0, 5)], ids=str)
def test_all_processes_hold_the_memory_of_one(run_processes, counts):
    start = torch.randn(20, 3, dtype=DOUBLE), torch.randint(5, (20,))
    batches = [(torch.randn(8, 3, dtype=DOUBLE), torch.randint(5, (8,))) for _ in range(4)]
    alone = filled(*start, num_classes=5, pointer=3)
    for batch in batches:
        alone.update(*batch)
    for result in run_processes(shard, len(counts), start, batches, counts):
        assert all(torch.equal(got, expected) for got, expected in zip(result, state(alone), strict=True))


def test_no_value_is_read_on_the_device():
    """Meta tensors have no values: any read by the host would raise."""
    memory = ClassMeanMemory(8, 2, 3).to("meta")
    memory.update(torch.zeros(3, 2, device="meta"), torch.zeros(3, dtype=torch.long, device="meta"))
    assert memory.class_weights().shape == (3, 2)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2).long(), r"features must be floating point \[n, 2\]"),
        (torch.zeros(2, 2), torch.zeros(3).long(), r"labels must be Long \[2\], got torch.int64 \[3\]"),
        (torch.zeros(2, 2), torch.zeros(2), "labels must be Long"),
        (torch.zeros(2, 2), torch.zeros(2, device="meta").long(), "on cpu, got .* on meta"),
        (torch.zeros(2, 2), torch.tensor([0, 3]), r"labels must lie in 0..2, got 0..3"),
        (torch.zeros(2, 2), torch.tensor([-1, 1]), r"got -1..1"),
    ],
)
def test_wrong_arguments(features, labels, message):
    memory = ClassMeanMemory(4, 2, 3)
    before = [tensor.clone() for tensor in state(memory)]
    with pytest.raises(ValueError, match=message):
        memory.update(features, labels)
    assert all(torch.equal(got, expected) for got, expected in zip(state(memory), before, strict=True))


def test_wrong_sizes():
    with pytest.raises(ValueError, match="must be positive, got 0, 2 and 3"):
        ClassMeanMemory(0, 2, 3)
