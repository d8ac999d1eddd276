"""What a loading process does for one anchor, stage by stage, measured in this process."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lgrep.training.doctor.ledger import Ledger
from lgrep.training.doctor.measured import STAGES

SECONDS = 4.0  # spent on the sample, at most
ANCHORS = 256
TRIED = 64  # of them, with other settings


@dataclass(frozen=True)
class Loading:
    """One loading process.

    Attributes:
        stages: seconds per anchor, without the cache.
        trials: override -> seconds per anchor with it, all stages together.
        short_side: median of the stored pictures, in pixels; 0 when unknown.
        decoded_bytes: of all pictures of the table together, estimated.
    """

    stages: dict[str, float]
    trials: dict[str, float]
    short_side: int = 0
    decoded_bytes: int = 0


class Watched:
    """Stands for an object; some of its methods are counted for parts of a ledger."""

    def __init__(self, whole: Any, ledger: Ledger, **parts: str) -> None:
        self.__dict__.update({name: ledger.timed(part, getattr(whole, name)) for name, part in parts.items()})
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


@contextmanager
def watched_stages(loader: DataLoader[Any], ledger: Ledger) -> Iterator[None]:
    """Count the stages of a loader's data set and collate function, as long as they run in this process."""
    dataset: Any = loader.dataset
    before, collate = dict(dataset.__dict__), loader.collate_fn
    table = copy.copy(dataset.table)
    table.read = ledger.timed("read", table.read)
    dataset.table = table
    dataset.transforms = {
        name: Watched(transform, ledger, worker="crop and resize", draw="other loading")
        for name, transform in dataset.transforms.items()
    }
    # reading is inside and counts for itself; what is left of loading a picture is decoding
    dataset._try = ledger.timed("decode", dataset._try)
    dataset._render = ledger.timed("augmentation", dataset._render)
    if dataset.texts is not None:
        dataset.texts = Watched(dataset.texts, ledger, draw="text")
    loader.collate_fn = ledger.timed("collate", collate)
    try:
        yield
    finally:
        dataset.__dict__.clear()
        dataset.__dict__.update(before)
        loader.collate_fn = collate


def measure_loading(loader: DataLoader[Any], anchors: np.ndarray[Any, Any]) -> Loading:
    """Load some anchors, drawn at random, in this process as a worker would, without its cache.

    Args:
        loader: of the run.
        anchors: of an epoch.
    """
    drawn = np.random.default_rng(0).choice(anchors, min(ANCHORS, len(anchors)), replace=False)
    keys = [(0, int(anchor)) for anchor in drawn]
    stages, samples = _sample(loader, keys, SECONDS)
    dataset: Any = loader.dataset
    settings = {"loader.decode=scaled": "scaled", "augment.device=cpu": "finished"}
    trials = {}
    for override, name in settings.items():
        if not getattr(dataset, name):
            other, _ = _sample(loader, keys[: min(len(samples), TRIED)], SECONDS / 2, **{name: True})
            # these files were read before, which is no merit of the setting
            trials[override] = sum(other.values()) - other.get("read", 0.0) + stages.get("read", 0.0)
    rows = list(dict.fromkeys(row for sample in samples for row in sample.rows))
    return Loading(stages, trials, *_sizes(dataset, rows[:32]))


def _sample(
    loader: DataLoader[Any], keys: list[tuple[int, int]], limit: float, **changes: bool
) -> tuple[dict[str, float], list[Any]]:
    """Seconds per anchor by stage, and the samples; `changes` are attributes of the data set."""
    dataset: Any = copy.copy(loader.dataset)
    dataset._cache = type(dataset._cache)(0, 0)
    dataset.__dict__.update(changes)
    alone: Any = copy.copy(loader)
    alone.__dict__["dataset"] = dataset  # a loader refuses to be given another data set
    ledger = Ledger()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        with watched_stages(alone, ledger), ledger.part("other loading"):
            dataset[keys[0]]  # imports and tables are made at the first use
            ledger.reset()
            began, samples = time.perf_counter(), []
            for key in keys:
                samples.append(dataset[key])
                if time.perf_counter() - began > limit:
                    break
            alone.collate_fn(samples)
            ledger.settle()
    finally:
        torch.set_num_threads(threads)
    return {name: ledger.seconds[name] / len(samples) for name in STAGES if ledger.seconds[name] > 0}, samples


def _sizes(dataset: Any, rows: list[int]) -> tuple[int, int]:
    """Median short side, and decoded bytes of the whole table, from the headers of some pictures."""
    sizes = []
    for row in rows:
        try:
            with Image.open(BytesIO(dataset.table.read(row))) as picture:
                sizes.append(picture.size)
        except (OSError, ValueError):  # a broken picture, or a format that only another decoder knows
            continue
    if not sizes:
        return 0, 0
    pixels = float(np.mean([width * height for width, height in sizes]))
    return int(np.median([min(size) for size in sizes])), int(3 * pixels * len(dataset.table))
