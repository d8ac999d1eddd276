"""Gathering of rows and of their gradients."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
import torch.distributed as dist

from lgrep.losses.gather import Rows, gather, gather_with_gradient, global_rows, row_offset, world

COUNTS = [(3, 3), (4, 1), (2, 5, 3), (3, 0, 4)]


def slices(counts):
    ends = list(accumulate(counts))
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


def gather_gradient(rank, whole, counts, weights):
    """A loss per process that weights all gathered rows with weights of its own."""
    local = whole[slices(counts)[rank]].clone().requires_grad_()
    gathered = gather_with_gradient(local)
    (gathered * weights[rank]).sum().backward()
    return gathered, local.grad


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_of_all_processes_are_summed(run_processes, counts, dtype):
    whole = torch.randn(sum(counts), 2, 3, dtype=torch.float64).to(dtype)
    # small whole numbers: their sums are exact in every type
    weights = torch.randint(-4, 5, (len(counts), *whole.shape)).to(dtype)
    results = run_processes(gather_gradient, len(counts), whole, counts, weights)
    for (gathered, gradient), own in zip(results, slices(counts), strict=True):
        assert gathered.dtype == gradient.dtype == dtype
        assert torch.equal(gathered, whole)
        assert torch.equal(gradient, weights.sum(0)[own])


def gather_many(rank, tensors, counts):
    own = slices(counts)[rank]
    rows = global_rows(counts[rank])
    offset, single = row_offset(counts[rank]), gather(tensors[0][own])
    return rows.counts, rows.offset, offset, single, gather(*[tensor[own] for tensor in tensors], rows=rows), world()


@pytest.mark.parametrize("counts", COUNTS)
def test_tensors_of_different_types_travel_together(run_processes, counts):
    total = sum(counts)
    tensors = [
        torch.arange(total) * 2**40,
        torch.rand(total, 3).bfloat16(),
        torch.randn(total, 2, 2, dtype=torch.float64),
        torch.rand(total) > 0.5,
        torch.arange(total, dtype=torch.int32),
    ]
    for rank, (seen, start, offset, single, gathered, position) in enumerate(
        run_processes(gather_many, len(counts), tensors, counts)
    ):
        assert seen == counts
        assert start == offset == sum(counts[:rank])
        assert position == (rank, len(counts))
        assert torch.equal(single, tensors[0])
        for got, expected in zip(gathered, tensors, strict=True):
            assert got.dtype == expected.dtype
            assert torch.equal(got, expected)


def wrong_layout(rank):
    with pytest.raises(ValueError, match="2 rows") as caught:
        gather_with_gradient(torch.zeros(2, 1), rows=Rows(rank, (3, 3)))
    return str(caught.value)


def test_a_layout_of_another_batch_is_refused(run_processes):
    assert all("counts=(3, 3)" in message for message in run_processes(wrong_layout, 2))


def rows_over_a_side_group(rank):
    with pytest.MonkeyPatch.context() as patch:
        made = []
        patch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")  # cannot move CPU tensors
        patch.setattr(dist, "new_group", lambda make=dist.new_group, **options: made.append(options) or make(**options))
        counts = [global_rows(rank + extra).counts for extra in (1, 5)]
    return counts, made


def test_row_counts_travel_over_one_cpu_group(run_processes):
    for _ in range(2):  # a second default group needs a second side group
        assert run_processes(rows_over_a_side_group, 2) == [([(1, 2), (5, 6)], [{"backend": "gloo"}])] * 2


def test_one_process_passes_through():
    tensor = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(tensor) is tensor
    assert not gather(tensor).requires_grad
    labels, same = gather(torch.arange(3), tensor)
    assert torch.equal(labels, torch.arange(3))
    assert torch.equal(same, tensor)
    assert (world(), row_offset(3), global_rows(3)) == ((0, 1), 0, Rows(0, (3,)))


def test_unequal_tensors_are_refused():
    with pytest.raises(ValueError, match="one number of rows"):
        gather(torch.zeros(2), torch.zeros(3))
