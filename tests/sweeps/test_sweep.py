"""A sweep on the command line: all combinations, one table, one plot, failures named."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from programs import Program, run_program
from training.runs import overrides

from lgrep.sweeps.jobs import Job
from lgrep.sweeps.report import _axis_key, _lines, draw_sweep, headline
from lgrep.sweeps.run import Outcome

ENTRY = """
import sys
from lgrep.cli import run
from lgrep.training.fit import train
from lgrep.training.resolve import resolve

def job(values, choices):
    if values["seed"] == 2 and values["method"]["temperature"] == 0.1:
        raise RuntimeError("this job fails on purpose")
    return train(values, choices)

sys.exit(run("train", "", job, check=resolve))
"""


def command(folder: Path, *more: str) -> list[str]:
    entry = folder / "entry.py"
    entry.write_text(ENTRY)
    tiny = [text for text in overrides(folder / "data", folder / "runs") if not text.startswith("duration.steps")]
    return [sys.executable, str(entry), "-m", *tiny, "duration.steps=3", "callbacks.linear=null", *more]


def table(folder: Path) -> list[dict[str, str]]:
    (path,) = (folder / "runs" / "sweeps").glob("*/jobs.csv")
    return list(csv.DictReader(path.open()))


def test_two_by_two_with_one_failing_job(tmp_path: Path) -> None:
    work = tmp_path / "cwd"
    work.mkdir()
    arguments = command(tmp_path, "seed=1,2", "method.temperature=0.05,0.1")
    ended = run_program(arguments, cwd=work)
    assert ended.returncode == 1 and "sweep of 4" in ended.stdout, ended.stdout + ended.stderr
    rows = table(tmp_path)
    assert [row["status"] for row in rows] == ["finished", "finished", "finished", "failed"]
    assert [(row["seed"], row["method.temperature"]) for row in rows] == [
        ("1", "0.05"), ("1", "0.1"), ("2", "0.05"), ("2", "0.1"),
    ]  # fmt: skip
    assert rows[3]["error"] == "RuntimeError: this job fails on purpose"
    assert "job 4 (seed=2 method.temperature=0.1) failed: RuntimeError: this job fails on purpose" in ended.stdout
    assert all(0 <= float(row["probe/knn_top1"]) <= 1 for row in rows[:3])
    assert len({row["run_dir"] for row in rows[:3]}) == 3
    assert list(work.iterdir()) == []
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"tiny", "sweeps"}
    again = run_program(arguments, cwd=work)
    assert again.stdout.count("holds the finished run") == 3
    assert table(tmp_path) == rows


@pytest.mark.ddp
def test_jobs_may_start_processes(tmp_path: Path) -> None:
    """Two at once, one of which starts a second process; a job that equals another runs once."""
    several = ["launcher=joblib", "launcher.jobs=2", "checkpoint.keep=1,2"]
    arguments = command(tmp_path, "trainer.devices=1,2", "trainer.precision=64-true", "optimizer.eps=1e-5", *several)
    work = tmp_path / "cwd"
    work.mkdir()
    ended = run_program(arguments, cwd=work)
    assert ended.returncode == 0, ended.stderr
    assert "2 jobs at once" in ended.stdout and "is the same as job 1" in ended.stdout
    one, same, two, _ = table(tmp_path)
    assert {**same, "job": "1", "checkpoint.keep": "1"} == one
    assert list(work.iterdir()) == []
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert sorted(path.name for path in (folder / "logs").iterdir()) == ["job-1.log", "job-3.log"]
    assert float(one["train/loss"]) == pytest.approx(float(two["train/loss"]), rel=1e-9)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"tiny", "sweeps"}


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    arguments = command(tmp_path, "seed=1,3", "duration.steps=400", "checkpoint.every_n_steps=500")
    with Program(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step"):
                break
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    assert [row["status"] for row in table(tmp_path)] == ["interrupted", "not run"]
    assert "Type the same command to go on" in errors
    assert list((tmp_path / "runs" / "tiny").glob("*/checkpoints/last.ckpt"))


def test_wrong_everywhere_is_one_error(tmp_path: Path) -> None:
    ended = run_program(command(tmp_path, "method.temprature=0.1,0.2"))
    assert ended.returncode == 2
    assert "did you mean 'temperature'" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_torchrun_cannot_start_a_sweep(tmp_path: Path) -> None:
    ended = run_program(command(tmp_path, "seed=1,2"), env={**os.environ, "LOCAL_RANK": "0", "RANK": "0"})
    assert ended.returncode == 2
    assert "start the sweep as one process" in ended.stderr


def outcome(number: int, value: float | None, **swept: str) -> Outcome:
    summary = {} if value is None else {"metrics": {"probe/knn_top1": value}}
    return Outcome(Job(number, swept), "failed" if value is None else "finished", summary)


def test_the_plot_puts_numbers_on_the_axis_and_seeds_on_one_point(tmp_path: Path) -> None:
    outcomes = [
        outcome(1, 0.5, seed="1", scale="2", method="a"), outcome(2, 0.7, seed="2", scale="2", method="a"),
        outcome(3, 0.4, seed="1", scale="8", method="a"), outcome(4, None, seed="2", scale="8", method="b"),
    ]  # fmt: skip
    assert _axis_key(outcomes) == "scale"
    done = [item for item in outcomes if item.status == "finished"]
    assert _lines(done, "scale", "probe/knn_top1") == {"method=a": {"2": [0.5, 0.7], "8": [0.4]}}
    draw_sweep(outcomes, ["probe/knn_top1"], tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size[0] > 300
    assert _axis_key([outcome(1, 0.1)]) is None
    assert headline(["train/loss", "train/lr"]) == ["train/loss"]


def test_names_on_the_axis(tmp_path: Path) -> None:
    outcomes = [outcome(1, 0.5, experiment="a_b$"), outcome(2, float("nan"), experiment="c")]
    draw_sweep(outcomes, ["probe/knn_top1"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 3000
