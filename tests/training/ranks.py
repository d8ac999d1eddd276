"""Whole training runs on the waiting processes of `distributed.run_processes`, as torchrun would start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import run_processes


def train_on(world_size: int, arguments: list[str]) -> list[dict[str, Any]]:
    """The summaries of all processes."""
    return run_processes(train_on_rank, world_size, world_size, [*arguments, f"trainer.devices={world_size}"])


def train_on_rank(rank: int, world_size: int, arguments: list[str]) -> dict[str, Any]:
    from lgrep.config.compose import compose_config
    from lgrep.training.fit import train

    with launched(rank, world_size):
        return train(*compose_config("train", arguments))


@contextmanager
def launched(rank: int, world_size: int) -> Iterator[None]:
    """What torchrun tells a process."""
    from pytorch_lightning.utilities import rank_zero_only

    numbers = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
    }
    told = {name: str(number) for name, number in numbers.items()}
    told |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    os.environ.update(told)
    rank_zero_only.rank = rank
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]


def quick(arguments: list[str]) -> list[str]:
    """The arguments of a run without its callbacks."""
    return [*(item for item in arguments if not item.startswith("callbacks.")), "callbacks=none"]
