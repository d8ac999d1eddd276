"""The cache of decoded pictures that loading processes share."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import encoded
from PIL import Image

from lgrep.data.cache import PictureCache

BYTES = 3 * 40 * 36  # of a picture of `made`


class Counting:
    """A table that counts what is read."""

    def __init__(self, kind: str = "PNG") -> None:
        self.reads = 0
        self.kind = kind

    def read(self, row: int) -> bytes:
        self.reads += 1
        return encoded(row, self.kind)


def pixels(cache: PictureCache, table: Any, rows: range) -> list[np.ndarray[Any, Any]]:
    return [cache.get(table, row).pixels.copy() for row in rows]


def test_it_stops_at_its_budget() -> None:
    table: Any = Counting()
    cache = PictureCache(budget=2 * BYTES + 10, rows=3)
    first, again = pixels(cache, table, range(3)), pixels(cache, table, range(3))
    assert table.reads == 4  # 0 and 1 are held, 2 is read twice
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_nothing_is_kept_without_a_budget() -> None:
    table: Any = Counting()
    pixels(PictureCache(0), table, range(2))
    pixels(PictureCache(0), table, range(2))
    assert table.reads == 4


def test_kept_pixels_cannot_be_changed() -> None:
    table: Any = Counting()
    cache = PictureCache(budget=10**5, rows=3)
    cache.get(table, 0)
    with pytest.raises(ValueError, match="read-only"):
        cache.get(table, 0).pixels[0, 0, 0] = 1


def test_rows_that_share_a_slot_are_not_mistaken() -> None:
    table: Any = Counting()
    cache = PictureCache(budget=2 * BYTES, rows=10**9)  # 8 slots
    for _ in range(2):
        for row in (1, 9, 17, 10**9 - 1):
            expected = np.asarray(Image.open(BytesIO(encoded(row))))
            assert np.array_equal(cache.get(table, row).pixels, expected)


def test_a_picture_at_another_scale_is_neither_kept_nor_answered_with_the_whole() -> None:
    table: Any = Counting("JPEG")
    cache = PictureCache(budget=10**5, rows=3)
    assert cache.get(table, 0, lambda width, height: 2).pixels.shape == (18, 20, 3)
    assert cache.get(table, 0, lambda width, height: 1).pixels.shape == (36, 40, 3)
    assert cache.get(table, 0, lambda width, height: 2).pixels.shape == (18, 20, 3)
    assert table.reads == 3
    cache.get(table, 0)
    assert table.reads == 3


def fill(cache: PictureCache, answers: Any, rows: range) -> None:
    table: Any = Counting()
    sums = [int(part.sum()) for part in pixels(cache, table, rows)]
    answers.put((table.reads, sums))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_it(method: str) -> None:
    context = multiprocessing.get_context(method)
    if method == "spawn" and not hasattr(os, "memfd_create"):
        pytest.skip("spawned processes share it on Linux only")
    cache, answers = PictureCache(budget=10**6, rows=8), context.Queue()
    if method == "spawn":
        cache._lock = context.Lock()
    found = []
    for _ in range(2):
        process = context.Process(target=fill, args=(cache, answers, range(8)))
        process.start()
        found.append(answers.get(timeout=60))
        process.join()
    table: Any = Counting()
    here = [int(part.sum()) for part in pixels(cache, table, range(8))]
    assert [reads for reads, _ in found] == [8, 0]
    assert table.reads == 0
    assert found[0][1] == found[1][1] == here


def test_processes_that_fill_it_together_keep_whole_pictures() -> None:
    context = multiprocessing.get_context("fork")
    cache, answers = PictureCache(budget=10**6, rows=40), context.Queue()
    processes = [context.Process(target=fill, args=(cache, answers, range(40))) for _ in range(3)]
    for process in processes:
        process.start()
    sums = [answers.get(timeout=60)[1] for _ in processes]
    for process in processes:
        process.join()
    table: Any = Counting()
    expected = [int(part.sum()) for part in pixels(PictureCache(0), table, range(40))]
    assert all(found == expected for found in sums)
    assert [int(part.sum()) for part in pixels(cache, table, range(40))] == expected


def test_a_process_that_died_with_the_lock_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgrep.data.cache._PATIENCE", 0.01)
    table: Any = Counting()
    cache = PictureCache(budget=10**6, rows=2)
    expected = cache.get(table, 0).pixels.copy()
    cache._lock.acquire()
    assert np.array_equal(cache.get(table, 0).pixels, expected)
    assert np.array_equal(cache.get(table, 0).pixels, expected)


def test_it_leaves_nothing_behind() -> None:
    shared = Path("/dev/shm")
    before = set(shared.iterdir()) if shared.is_dir() else set()
    table: Any = Counting()
    cache = PictureCache(budget=10**6, rows=2)
    cache.get(table, 0)
    assert not shared.is_dir() or set(shared.iterdir()) <= before


def test_a_copy_by_pickle_has_memory_of_its_own() -> None:
    table: Any = Counting()
    cache = PictureCache(budget=10**6, rows=2)
    cache.get(table, 0)
    copy = pickle.loads(pickle.dumps(cache))
    copy.get(table, 0)
    assert table.reads == 2
