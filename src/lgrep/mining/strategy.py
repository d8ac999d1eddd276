"""Which search a set of a given size gets on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lgrep.mining.indexes import gpus

Engine: TypeAlias = Literal["flat", "ivf_flat", "ivf_pq", "hnsw"]
Choice: TypeAlias = Literal["auto", "flat", "ivf_flat", "ivf_pq", "hnsw"]
_FLOPS_PER_CORE = 6e10  # of float32 products, about
_FLOPS_PER_GPU = 3e13
_PATIENCE = 60.0  # seconds; longer exact searches become approximate
_SHARE = 0.6  # of the memory that vectors may fill


@dataclass(frozen=True)
class Machine:
    """What a search may use.

    Attributes:
        cores: threads of this process.
        gpus: that FAISS can use.
        memory: bytes of the machine that are free.
        gpu_memory: bytes of one GPU.
    """

    cores: int
    gpus: int
    memory: int
    gpu_memory: int

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        import torch

        found = gpus()
        gpu_memory = torch.cuda.get_device_properties(0).total_memory if found and torch.cuda.is_available() else 0
        return cls(torch.get_num_threads(), found, free_memory(), gpu_memory or 16 * 2**30)


def choose(engine: Choice, rows: int, dim: int, machine: Machine) -> tuple[Engine, str]:
    """The search for a set, and why.

    Exact where that takes a minute at most; else IVF-Flat while the vectors (float16) fit into memory, from where
    blocks are read many times; else IVF-PQ.

    >>> machine = Machine(cores=2, gpus=0, memory=8 * 2**30, gpu_memory=0)
    >>> [choose("auto", rows, 768, machine)[0] for rows in (50_000, 1_000_000, 12_000_000)]
    ['flat', 'ivf_flat', 'ivf_pq']
    """
    if engine != "auto":
        return engine, "as typed"
    speed = machine.gpus * _FLOPS_PER_GPU or machine.cores * _FLOPS_PER_CORE
    seconds = 2.0 * rows * rows * dim / speed
    memory = machine.gpus * machine.gpu_memory or machine.memory
    size = 2 * rows * dim
    if seconds <= _PATIENCE and (not machine.gpus or size <= _SHARE * memory):
        return "flat", f"exact takes about {seconds:.0f} s"
    if size <= _SHARE * memory:
        return "ivf_flat", f"exact would take about {seconds:.0f} s"
    return "ivf_pq", f"{size / 2**30:.1f} GiB of vectors, {memory / 2**30:.1f} GiB of memory are free"


def free_memory() -> int:
    """Bytes that can be used without swapping; a quarter of all where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
