"""A scheduler's signals: the state of all processes is saved, and the job goes back into the queue."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from lgrep.callbacks.requeue import requeue, slurm_job
from lgrep.errors import CheckpointError, Interrupted
from lgrep.methods.base import Method
from training.ranks import quick, train_on_rank
from training.runs import assert_equal, only_run, overrides, run, state

SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of SLURM whose `scontrol` only writes down what it is asked; Lightning does not see the job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls.txt"
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$2" != 13 ] || {{ echo "Invalid job id" >&2; exit 1; }}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    calls.touch()
    return calls


@pytest.mark.parametrize(
    ("told", "job"),
    [
        ({}, "77"),
        ({"SLURM_JOB_NAME": "pretrain"}, "77"),
        ({"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "0"}, "70_0"),
        ({"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "5"}, "77_5"),
        ({"SLURM_JOB_NAME": "interactive"}, None),
        ({"SLURM_JOB_NAME": "bash"}, None),
        ({"SLURM_JOB_ID": ""}, None),
    ],
)
def test_the_job_that_is_requeued(
    queue: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], job: str | None
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert slurm_job() == job
    assert (requeue(signal.SIGUSR1) is None) == (job is None)
    assert queue.read_text() == ("" if job is None else f"requeue {job}\n")


def test_a_refusal_is_told_and_ctrl_c_is_final(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert requeue(signal.SIGINT) is None and queue.read_text() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert "job 13 could not be requeued (Invalid job id)" in str(requeue(signal.SIGTERM))
    monkeypatch.setenv("PATH", "")
    assert "could not be requeued" in str(requeue(signal.SIGTERM))


def signal_at(patch: pytest.MonkeyPatch, step: int, number: int, rank: int = 0) -> None:
    before = Method.training_step

    def signalled(self: Method, batch: object, batch_idx: int) -> object:
        if self.global_step == step and self.global_rank == rank:
            os.kill(os.getpid(), number)
        return before(self, batch, batch_idx)  # type: ignore[arg-type]

    patch.setattr(Method, "training_step", signalled)


def outside_slurm(patch: pytest.MonkeyPatch) -> None:
    """Lightning would want as many tasks as the job has."""
    from lightning_fabric.plugins.environments import SLURMEnvironment

    patch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: False))


def test_a_job_is_requeued_once_and_ends_like_an_uninterrupted_one(
    tmp_path: Path, queue: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = quick(overrides(tmp_path / "data", tmp_path / "parts"))
    with monkeypatch.context() as patch:
        outside_slurm(patch)
        signal_at(patch, 4, signal.SIGUSR1)
        with pytest.raises(Interrupted) as caught:
            run(arguments)
        assert caught.value.exit_code == 138
    assert queue.read_text() == "requeue 77\n"
    assert "job 77 is in the queue again" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    monkeypatch.delenv("SLURM_JOB_ID")
    assert run(arguments)["finished"]
    assert "goes on after step 5" in capsys.readouterr().out
    assert run(quick(overrides(tmp_path / "data", tmp_path / "whole")))["finished"]
    assert_equal(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_a_full_disk_is_no_reason_to_promise_a_state(
    tmp_path: Path, queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is requeued all the same: it goes on from the state before."""
    from lgrep.checkpoints import writer

    whole = writer.save_sealed

    def full(content: dict[str, object], handle: object) -> None:
        if content["global_step"] == 5:
            raise OSError(28, "No space left on device")
        whole(content, handle)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "save_sealed", full)
    outside_slurm(monkeypatch)
    signal_at(monkeypatch, 4, signal.SIGTERM)
    with pytest.raises(
        CheckpointError, match=r"step 5\) could not be written: No space left.*step-00000003.ckpt is in"
    ):
        run(quick(overrides(tmp_path / "data", tmp_path / "runs")))
    assert queue.read_text() == "requeue 77\n"


def test_requeueing_can_be_left_out(tmp_path: Path, queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside_slurm(monkeypatch)
    signal_at(monkeypatch, 2, signal.SIGUSR1)
    with pytest.raises(Interrupted):
        run(quick(overrides(tmp_path / "data", tmp_path / "runs", "trainer.requeue=false")))
    assert queue.read_text() == ""


def interrupted_rank(rank: int, calls: str, arguments: list[str]) -> tuple[int, str | None]:
    """Trains as rank of two, of which the second gets the signal; the exit code and the newest state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", "77")
        patch.setenv("PATH", f"{Path(calls).parent / 'bin'}:{os.environ['PATH']}")
        outside_slurm(patch)
        signal_at(patch, 4, signal.SIGUSR1, rank=1)
        try:
            train_on_rank(rank, 2, arguments)
        except Interrupted as error:
            return error.exit_code, str(error)
    return 0, None


@pytest.mark.ddp
def test_a_signal_at_one_of_two_processes_stops_both_and_requeues_once(
    tmp_path: Path, queue: Path, run_processes: object
) -> None:
    arguments = quick(overrides(tmp_path / "data", tmp_path / "runs", "trainer.devices=2"))
    ends = run_processes(interrupted_rank, 2, str(queue), arguments)  # type: ignore[operator]
    assert ends[0] == ends[1] and ends[0][0] == 128 + signal.SIGUSR1
    assert queue.read_text() == "requeue 77\n"
    saved = sorted(path.name for path in (only_run(tmp_path / "runs") / "checkpoints").glob("step-*"))
    assert ends[0][1] == f"SIGUSR1 after step {int(saved[-1][5:13])}"


def test_loading_workers_outlive_the_signal() -> None:
    """SLURM signals every process of a job step."""
    from lgrep.data.workers import outlive_signals

    child = os.fork()
    if child == 0:
        outlive_signals()
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(7)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(ended[1]) == 7
