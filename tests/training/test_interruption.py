"""Ctrl-C, SIGTERM and full disks: what was done is kept, the exit code says why, and the run goes on."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from programs import run_program

from lgrep.errors import CheckpointError
from lgrep.methods.base import Method
from training.runs import assert_equal, only_run, overrides, run, script, start, state

# Sends itself (and, like a terminal, every process of the job) a signal while the step before N runs.
SIGNALLING = """
import os, signal, sys
from lgrep.cli import run
from lgrep.methods.base import Method
from lgrep.training.fit import train

number, whom, steps = int(sys.argv[1]), sys.argv[2], [int(step) for step in sys.argv[3].split(",")]
step_once = Method.training_step
def signalling(self, batch, batch_idx):
    while steps and self.global_step == steps[0]:
        steps.pop(0)
        if whom == "group":
            if self.global_rank == 0:
                os.killpg(0, number)
        elif self.global_rank == int(whom):
            os.kill(os.getpid(), number)
    return step_once(self, batch, batch_idx)
Method.training_step = signalling
sys.exit(run("train", "", train, sys.argv[4:]))
"""


def signalled(
    folder: Path, number: signal.Signals, whom: str, steps: str, arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    entry = folder / "signalling.py"
    entry.write_text(SIGNALLING)
    return run_program([sys.executable, str(entry), str(int(number)), whom, steps, *arguments], process_group=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run; its pictures are beside it in `data`."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(overrides(folder / "data", folder / "runs"))["finished"]
    return folder / "runs"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_the_run_goes_on(
    tmp_path: Path, whole: Path, number: signal.Signals, code: int
) -> None:
    arguments = overrides(whole.parent / "data", tmp_path / "runs", "loader.workers=2", "logger=none")
    ended = signalled(tmp_path, number, "group", "4", arguments)
    assert ended.returncode == code, ended.stderr
    assert f"interrupted: {number.name} after step 5; everything is saved" in ended.stderr
    assert "Traceback" not in ended.stderr
    folder = only_run(tmp_path / "runs")
    assert (folder / "checkpoints" / "step-00000005.ckpt").is_file()
    assert not (folder / "summary.json").exists()
    finished = start([script(tmp_path), *arguments])
    assert finished.returncode == 0, finished.stderr
    assert "goes on after step 5" in finished.stdout
    assert_equal(state(tmp_path / "runs"), state(whole))
    assert (folder / "metrics.csv").read_bytes() == (only_run(whole) / "metrics.csv").read_bytes()


@pytest.mark.ddp
@pytest.mark.parametrize("whom", ["group", "1"])
def test_two_processes_stop_at_the_same_step(tmp_path: Path, whom: str) -> None:
    """A terminal signals both; a node's scheduler perhaps one. Both then save and end after the same step."""
    arguments = overrides(tmp_path / "data", tmp_path / "runs", "trainer.devices=2")
    ended = signalled(tmp_path, signal.SIGTERM, whom, "4", arguments)
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.count("interrupted: SIGTERM after step") == 1
    saved = sorted(path.name for path in (only_run(tmp_path / "runs") / "checkpoints").glob("step-*"))
    assert saved[-1] in {"step-00000005.ckpt", "step-00000006.ckpt"}
    finished = start([script(tmp_path), *arguments])
    assert finished.returncode == 0, finished.stderr


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """Both arrive within one step: the second one does not wait for the end of it."""
    arguments = overrides(tmp_path / "data", tmp_path / "runs")
    ended = signalled(tmp_path, signal.SIGINT, "0", "4,4", arguments)
    assert ended.returncode == 130, ended.stderr
    assert "after step" not in ended.stderr.replace("stopping after this step", "")
    names = [path.name for path in (only_run(tmp_path / "runs") / "checkpoints").glob("step-*")]
    assert names == ["step-00000003.ckpt"]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Files may not grow beyond 64 kB while the steps from `full["from"]` to `full["to"]` run."""
    limits, full = resource.getrlimit(resource.RLIMIT_FSIZE), {"from": 10**9, "to": 10**9}
    begin = Method.on_train_batch_start

    def hook(self: Method, batch: object, batch_idx: int) -> None:
        inside = full["from"] <= self.global_step < full["to"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536 if inside else limits[0], limits[1]))
        begin(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(Method, "on_train_batch_start", hook)
    yield full  # type: ignore[misc]
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_full_for_a_while_costs_nothing(
    tmp_path: Path, full_disk: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    full_disk.update({"from": 4, "to": 8})
    assert run(overrides(tmp_path / "data", tmp_path / "runs", "checkpoint.keep=9"))["finished"]
    printed = capfd.readouterr().out
    assert "step 6: the state could not be written (File too large); step-00000003.ckpt is kept" in printed
    folder = only_run(tmp_path / "runs") / "checkpoints"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["last.ckpt", *(f"step-{step:08d}.ckpt" for step in (3, 9, 12, 13))]


def test_a_disk_full_to_the_end_keeps_the_last_whole_state(
    tmp_path: Path, whole: Path, full_disk: dict[str, int]
) -> None:
    full_disk.update({"from": 7})
    arguments = overrides(whole.parent / "data", tmp_path / "runs")
    with pytest.raises(CheckpointError, match=r"step 13\) could not be written.*step-00000006\.ckpt is intact"):
        run(arguments)
    assert not (only_run(tmp_path / "runs") / "summary.json").exists()
    full_disk.update({"from": 10**9})
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert run(arguments)["finished"]
    assert_equal(state(tmp_path / "runs")["state_dict"], state(whole)["state_dict"])
