from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lgrep.errors import DataError
from lgrep.mining.ranges import RangeFile, made_once


def numbers(rows: range) -> np.ndarray:
    return np.arange(3 * rows.start, 3 * rows.stop).reshape(-1, 3)


def opened(folder: Path) -> RangeFile:
    return RangeFile(folder / "values.bin", 50, 3, "int32", 8)


def test_ranges_make_the_whole(tmp_path: Path) -> None:
    asked: list[range] = []
    file = opened(tmp_path)
    file.fill(lambda rows: asked.append(rows) or numbers(rows))
    assert np.array_equal(file.array(), np.arange(150).reshape(50, 3))
    assert [len(rows) for rows in asked] == [8] * 6 + [2] and file.finished_rows == 50
    assert not file.array().flags.writeable
    opened(tmp_path).fill(lambda rows: pytest.fail("made again"))


def test_an_empty_file(tmp_path: Path) -> None:
    file = RangeFile(tmp_path / "values.bin", 0, 3, "int32", 8)
    file.fill(numbers)
    assert file.array().shape == (0, 3)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "hash"])
def test_what_is_damaged_is_made_again_and_nothing_else(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = opened(tmp_path)
    file.fill(numbers)
    if damage == "flip":
        with (tmp_path / "values.bin").open("r+b") as out:
            out.seek(3 * 4 * 17)
            out.write(b"\xff")
    elif damage == "cut":
        os.truncate(tmp_path / "values.bin", 3 * 4 * 20)
    elif damage == "gone":
        (tmp_path / "values.bin").unlink()
    else:
        (tmp_path / "values.done" / "0000002").write_bytes(b"\xff\xfe")
    again: list[int] = []
    file = opened(tmp_path)
    expected = {"flip": [2], "cut": [2, 3, 4, 5, 6], "gone": list(range(7)), "hash": [2]}[damage]
    assert file.drop_damaged() == len(expected)
    assert "damaged and are made again" in capsys.readouterr().err
    file.fill(lambda rows: again.append(rows.start // 8) or numbers(rows))
    assert again == expected and np.array_equal(file.array(), np.arange(150).reshape(50, 3))


def test_a_range_of_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got values \(8, 2\)"):
        opened(tmp_path).fill(lambda rows: np.zeros((len(rows), 2)))


def test_a_full_disk_is_named_and_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.pwrite, []

    def full(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left on device.*kept"):
        opened(tmp_path).fill(numbers)
    monkeypatch.undo()
    assert opened(tmp_path).finished_rows == 16


def _slow(folder: str, log: str, delay: float) -> None:
    def make(rows: range) -> np.ndarray:
        time.sleep(delay)
        with open(log, "a", encoding="utf-8") as out:
            out.write(f"{os.getpid()} {rows.start}\n")
        return numbers(rows)

    opened(Path(folder)).fill(make)


def test_processes_share_the_work_and_one_may_be_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_slow, args=(str(tmp_path), str(log), 0.1)) for _ in range(3)]
    for process in processes:
        process.start()
    while not log.exists():
        time.sleep(0.01)
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGKILL)
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [-9, 0, 0]
    assert np.array_equal(opened(tmp_path).array(), np.arange(150).reshape(50, 3))
    made = [line.split() for line in log.read_text().splitlines()]
    assert len(made) <= 8  # seven ranges, and at most the one that was lost
    assert len({process for process, _ in made}) >= 2


def test_made_once_waits_and_leaves_nothing_half(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"

    def broken(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        made_once(path, broken)
    assert not path.exists()
    made_once(path, lambda partial: partial.write_text("whole") and None)
    made_once(path, lambda partial: pytest.fail("made again"))
    assert path.read_text() == "whole"
