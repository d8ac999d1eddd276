from __future__ import annotations

import pytest

from lgrep.mining.strategy import Machine, choose

SMALL = Machine(cores=2, gpus=0, memory=16 * 2**30, gpu_memory=0)
GPU = Machine(cores=8, gpus=1, memory=64 * 2**30, gpu_memory=80 * 2**30)


@pytest.mark.parametrize(
    ("machine", "rows", "dim", "engine"),
    [
        (SMALL, 1, 384, "flat"),
        (SMALL, 50_000, 768, "flat"),
        (SMALL, 1_000_000, 384, "ivf_flat"),
        (SMALL, 12_000_000, 768, "ivf_pq"),
        (GPU, 1_000_000, 768, "flat"),
        (GPU, 12_000_000, 768, "ivf_flat"),
        (GPU, 100_000_000, 768, "ivf_pq"),
    ],
)
def test_by_size_and_hardware(machine: Machine, rows: int, dim: int, engine: str) -> None:
    assert choose("auto", rows, dim, machine)[0] == engine


def test_what_is_typed_is_taken() -> None:
    assert choose("hnsw", 10, 4, SMALL) == ("hnsw", "as typed")


def test_this_machine() -> None:
    here = Machine.here()
    assert here.cores >= 1 and here.memory > 2**27
