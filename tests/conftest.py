"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))  # so that test files import `distributed` under every import mode

import distributed  # noqa: E402
import programs  # noqa: E402

gc.disable()  # until all is imported: collections are a fifth of what imports cost


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is written into the user's cache."""
    folder = tempfile.TemporaryDirectory(prefix="lgrep-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["LGREP_CACHE"] = folder.name
    if config.getoption("numprocesses", None):
        programs.share_server()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: what tests wait for (other processes, timeouts) left a tenth of the cores idle."""
    from lgrep.data.workers import usable_cores

    return min(4, usable_cores() + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what waits more than it computes: `make test` has its type checks beside the first tests."""
    items.sort(key=lambda item: item.path.name != "test_doctor.py")


def pytest_collection_finish() -> None:
    """Rarer collections of garbage, which pass over what is imported by now: they were a tenth of all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 10, 20)
    gc.enable()


def pytest_sessionfinish() -> None:
    """At its end the interpreter frees everything."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def run_processes() -> Iterator[Callable[..., list[Any]]]:
    """`run_processes(function, world_size, *args)`: see `tests/distributed.py`."""
    yield distributed.run_processes
    distributed.close_processes()


Golden = dict[str, dict[str, dict[str, np.ndarray]]]  # variant, in or out, name


@pytest.fixture(scope="session")
def goldens() -> dict[str, Golden]:
    """Published reference losses on fixed inputs: goldens[case][variant]["in" or "out"][name]."""
    tree: dict[str, Golden] = {}
    with np.load(TESTS / "goldens" / "reference_losses.npz") as file:
        for key in file.files:
            case, variant, side, name = key.split("/")
            tree.setdefault(case, {}).setdefault(variant, {}).setdefault(side, {})[name] = file[key]
    return tree
