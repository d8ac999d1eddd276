"""The multi-process harness itself."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist


def report(rank: int, offset: int) -> tuple[int, int, int, int]:
    total = torch.tensor([rank + offset])
    dist.all_reduce(total)
    return os.getpid(), dist.get_world_size(), int(total), torch.get_num_threads()


def fail_on_second(rank: int) -> None:
    if rank == 1:
        raise ValueError("the second process fails")
    dist.barrier()


def test_processes_are_joined_and_reused(run_processes):
    first = run_processes(report, 2, 10)
    second = run_processes(report, 3, 10)
    assert [entry[1:] for entry in first] == [(2, 21, 1)] * 2
    assert [entry[1:] for entry in second] == [(3, 33, 1)] * 3
    assert [entry[0] for entry in second[:2]] == [entry[0] for entry in first]
    assert os.getpid() not in {entry[0] for entry in second}


def test_failure_carries_the_traceback_and_leaves_the_harness_usable(run_processes):
    with pytest.raises(RuntimeError, match=r"fail_on_second(?s:.*)the second process fails"):
        run_processes(fail_on_second, 2)
    assert run_processes(report, 2, 1)[0][1:] == (2, 3, 1)
