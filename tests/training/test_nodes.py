"""Several machines, and machines that die: the same training, one error, and a run that goes on."""

from __future__ import annotations

import csv
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from programs import Program

from training.ranks import quick, train_on
from training.runs import SCRIPT, assert_equal, only_run, overrides, run, script, start, state

DOUBLE = ("trainer.precision=64-true", "duration.steps=4", "trainer.log_every_n_steps=1", "optimizer.eps=1e-5")
# torchrun's workers, too, are forked from the server of programs.
TORCHRUN = """
import subprocess
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
subprocess_handler.Popen = subprocess.Popen
from torch.distributed.run import main
main()
"""


LIMIT = 500.0  # seconds, of which a machine at rest needs few


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def losses(runs: Path) -> list[float]:
    return [float(row["train/loss"]) for row in csv.DictReader((only_run(runs) / "metrics.csv").open())]


def assert_near(first: Path, second: Path) -> None:
    one, two = state(first)["state_dict"], state(second)["state_dict"]
    assert next(iter(one.values())).dtype == torch.float64
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-9, msg=name)
    assert losses(first) == pytest.approx(losses(second), rel=1e-10)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process in float64; its pictures are beside it in `data`."""
    folder = tmp_path_factory.mktemp("alone")
    assert run(quick(overrides(folder / "data", folder / "runs", *DOUBLE)))["finished"]
    return folder / "runs"


def nodes(folder: Path, arguments: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Two `torchrun` nodes of one process each on this machine."""
    port = free_port()
    started = []
    for node in range(2):
        told = (
            f"--nnodes=2 --node-rank={node} --nproc-per-node=1 --master-addr=127.0.0.1 --master-port={port} --no-python"
        )
        command = [sys.executable, "-c", TORCHRUN, *told.split(), sys.executable, script(folder), *arguments]
        started.append(Program(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        ended = [(*process.communicate(timeout=LIMIT), process.returncode) for process in started]
    finally:
        for process in started:
            process.terminate()  # torchrun ends its workers
    return [subprocess.CompletedProcess([], code, output, errors) for output, errors, code in ended]


@pytest.mark.ddp
def test_two_torchrun_nodes_equal_one_process(tmp_path: Path, alone: Path) -> None:
    arguments = quick(overrides(alone.parent / "data", tmp_path / "nodes", *DOUBLE, "trainer.num_nodes=2"))
    first, second = nodes(tmp_path, arguments)
    assert first.returncode == 0 and second.returncode == 0, first.stderr + second.stderr
    assert_near(alone, tmp_path / "nodes")
    assert "2 process(es)" in first.stdout and "2 process(es)" not in second.stdout


@pytest.mark.ddp
def test_four_processes_equal_one(tmp_path: Path, alone: Path) -> None:
    """Five anchors on four processes: one of them holds two."""
    train_on(4, quick(overrides(alone.parent / "data", tmp_path / "four", *DOUBLE)))
    assert_near(alone, tmp_path / "four")


KILLED = SCRIPT.replace("if self.global_step == step:", "if self.global_step == step and self.global_rank == RANK:")


@pytest.mark.ddp
@pytest.mark.parametrize("rank", [0, 1])
def test_one_death_ends_all_with_one_error_and_the_run_goes_on(tmp_path: Path, rank: int) -> None:
    arguments = quick(overrides(tmp_path / "data", tmp_path / "runs", "trainer.devices=2", "trainer.timeout_s=20"))
    killing = tmp_path / "killing.py"
    killing.write_text(KILLED.replace("RANK", str(rank)))
    begun = time.monotonic()
    with (tmp_path / "errors.txt").open("w") as errors, (tmp_path / "output.txt").open("w") as output:
        process = Program([sys.executable, str(killing), "--kill-at", "5", *arguments], stdout=output, stderr=errors)
        code = process.wait(timeout=LIMIT)
    told = tmp_path / "errors.txt"
    while "processes of this run died" not in told.read_text() and time.monotonic() - begun < LIMIT:
        time.sleep(0.1)  # the first process was killed: the other one ends a moment later
    text = told.read_text()
    assert code != 0 and "Traceback" not in text
    assert text.count("error: one of the 2 processes of this run died") == 1, text
    assert "step-00000003.ckpt is saved" in text
    folder = only_run(tmp_path / "runs")
    assert (folder / "failed").is_file() and not (folder / "summary.json").exists()
    time.sleep(0.5)
    finished = start([script(tmp_path), *arguments])
    assert finished.returncode == 0, finished.stderr
    assert "goes on after step 3" in finished.stdout
    assert not (folder / "failed").exists()
    train_on(2, [*arguments, f"paths.runs={tmp_path / 'whole'}"])
    assert_equal(state(tmp_path / "runs"), state(tmp_path / "whole"))


def resumed_apart(rank: int, arguments: list[str], steps: list[int]) -> str:
    """Every process finds another state, as on machines that share no files."""
    from lgrep.training import fit
    from training.ranks import train_on_rank

    def state_of(folder: Any, resume: str) -> tuple[Path, list[str]]:
        return folder.checkpoints / f"step-{steps[rank]:08d}.ckpt", []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "state_to_resume", state_of)
        try:
            train_on_rank(rank, 2, arguments)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "trained"


@pytest.mark.ddp
def test_processes_that_found_different_states_do_not_begin(tmp_path: Path, run_processes: Any) -> None:
    more = ("trainer.devices=2", "checkpoint.keep=9", "checkpoint.every_n_steps=1", "duration.steps=4")
    arguments = quick(overrides(tmp_path / "data", tmp_path / "runs", *more))
    train_on(2, arguments)
    (only_run(tmp_path / "runs") / "summary.json").unlink()
    for answer in run_processes(resumed_apart, 2, arguments, [3, 2]):
        assert answer.startswith("CheckpointError: processes found different states of this run (after step 2 and")


def test_a_closed_connection_is_a_lost_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its messages the network chooses, the first process to see it says the same."""
    from lgrep.data.failures import named_failures
    from lgrep.training import lost

    monkeypatch.setattr(lost, "world", lambda: (0, 2))
    folder: Any = SimpleNamespace(path=tmp_path, checkpoints=tmp_path)
    for end, kind in (("closed", lost.ProcessLost), ("reset", SystemExit)):  # the second one finds the first's claim
        with pytest.raises(kind), lost.lost_processes(folder, 20), named_failures(None):
            raise RuntimeError(f"[pair.cc:547] Connection {end} by peer [127.0.0.1]:4242")
