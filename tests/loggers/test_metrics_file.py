from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lgrep.loggers import MetricsFile


def write(folder: Path, start: int = 0, stop: int = 30, step: int = 1) -> MetricsFile:
    logger = MetricsFile(str(folder))
    for i in range(start, stop, step):
        logger.log_metrics({"loss": 1 / (i + 1), "epoch": 3}, i)
        if i % 10 == 9:
            logger.log_metrics({"probe": i / 7}, i)
    return logger


def test_rows_merge_by_step_and_floats_survive(tmp_path: Path) -> None:
    write(tmp_path).save()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(30))
    assert [float(row["loss"]) for row in rows] == [1 / (i + 1) for i in range(30)]
    assert [row["probe"] for row in rows[8:11]] == ["", repr(9 / 7), ""]
    assert "epoch" not in rows[0]


@pytest.mark.parametrize("saved", [0, 4, 9, 10, 15, 20, 22])
@pytest.mark.parametrize("cut", [False, True])
def test_killed_and_continued_equals_uninterrupted(tmp_path: Path, saved: int, cut: bool) -> None:
    """State saved before step `saved`, killed at step 23, possibly in the middle of a write."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    write(whole).save()
    write(parts, stop=23)
    if cut:
        with (parts / "metrics.csv").open("a") as handle:
            handle.write("23,0.04")
    resumed = MetricsFile(str(parts))
    resumed.cut_back(saved)
    for i in range(saved, 30):
        resumed.log_metrics({"loss": 1 / (i + 1)}, i)
        if i % 10 == 9:
            resumed.log_metrics({"probe": i / 7}, i)
    resumed.save()
    assert (parts / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_new_metric_late_keeps_the_earlier_rows(tmp_path: Path) -> None:
    logger = MetricsFile(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"b": 2.0}, 1)
    logger.save()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert rows == [{"step": "0", "a": "1.0", "b": ""}, {"step": "1", "a": "", "b": "2.0"}]
