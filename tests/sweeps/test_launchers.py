"""Where jobs run: their share of the machine, signals, and SLURM as far as it can be acted."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lgrep.cli import run
from lgrep.errors import ConfigError
from lgrep.sweeps.launchers import Joblib, Needs, Sequential, Stop, Submitit, Task, choose_launcher, cluster
from lgrep.sweeps.launchers.local import divided_cores, divided_gpus
from lgrep.sweeps.outcome import OUTCOME, alone, read_outcome

TELL = "import json, os, pathlib, signal, sys, time\ntold = pathlib.Path(os.environ['LGREP_OUTCOME'])\n"
MET = """
mine = told.with_suffix('.here'); mine.touch()
until = time.monotonic() + 60
while len(list(told.parent.glob('*.here'))) < 2 and time.monotonic() < until: time.sleep(0.01)
told.write_text(json.dumps({'result': {'gpus': os.environ.get('CUDA_VISIBLE_DEVICES'),
    'cores': sorted(os.sched_getaffinity(0)), 'met': len(list(told.parent.glob('*.here')))}}))
print('said by', told.stem)
"""


def task(folder: Path, number: int, code: str, needs: Needs = Needs()) -> Task:
    command = [sys.executable, "-S", "-c", TELL + code]
    return Task(number, f"x={number}", command, folder / f"told/{number}.json", folder / f"logs/{number}.log", needs)


def test_jobs_run_at_once_each_with_its_gpus_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b,6,7")
    tasks = [task(tmp_path, 1, MET), task(tmp_path, 2, MET)]
    with Stop() as stop:
        ended = {t.number: code for t, code in Joblib(jobs=2).launch(tasks, tmp_path, stop)}
    assert ended == {1: 0, 2: 0}
    one, two = (read_outcome(t.told)["result"] for t in tasks)
    assert one["met"] == two["met"] == 2
    assert {one["gpus"], two["gpus"]} == {"4,GPU-b", "6,7"}
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(one["cores"]) & set(two["cores"])
    assert (tmp_path / "logs/1.log").read_text() == "said by 1\n"


@pytest.mark.parametrize("launcher", [Sequential(), Joblib(jobs=1)])
def test_a_signal_reaches_the_job_and_nothing_else_is_started(tmp_path: Path, launcher: Sequential | Joblib) -> None:
    saves = (
        'def save(*_):\n    told.write_text(\'{"error": "saved"}\'); sys.exit(7)\nsignal.signal(signal.SIGTERM, save)\n'
    )
    ask = "os.kill(os.getppid(), signal.SIGTERM)\nwhile True: time.sleep(0.01)"
    tasks = [task(tmp_path, 1, saves + ask), task(tmp_path, 2, "told.touch()")]
    with Stop() as stop:
        assert [(t.number, code) for t, code in launcher.launch(tasks, tmp_path, stop)] == [(1, 7)]
    assert stop.received == signal.SIGTERM
    assert read_outcome(tasks[0].told) == {"error": "saved"} and not tasks[1].told.exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("gpus", "jobs", "each", "asked", "expected"),
    [
        (8, 2, None, 1, [4, 4]),
        (8, 4, None, 2, [2, 2, 2, 2]),
        (3, 2, None, 2, [2]),  # only one fits
        (4, 4, 2, 1, [2, 2]),
        (1, 3, None, 1, [1, 1, 1]),  # shared
        (0, 3, None, 1, [None, None, None]),
    ],
)
def test_gpus_are_divided(gpus: int, jobs: int, each: int | None, asked: int, expected: list[int | None]) -> None:
    names = [f"g{number}" for number in range(gpus)]
    groups = divided_gpus(names, jobs, each, asked)
    assert [None if group is None else len(group) for group in groups] == expected
    given = [name for group in groups if group for name in group]
    assert len(set(given)) == len(given) or gpus == 1
    with pytest.raises(ConfigError, match=r"trainer\.devices=9.*8 GPU"):
        divided_gpus([str(number) for number in range(8)], 1, None, 9)


def test_cores_are_divided_without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11})
    assert divided_cores(2) == [(2, 3), (5, 7, 11)]
    assert divided_cores(7) == [(2,), (3,), (5,), (7,), (11,), (2,), (3,)]


def test_a_job_waits_for_the_same_job_of_a_killed_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path / "job-1.json"))
    order: list[str] = []

    def second() -> None:
        with alone():
            order.append("second")

    with alone():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
    monkeypatch.setenv("SLURM_PROCID", "1")  # further processes of a job are part of it
    with alone(), alone():
        pass


def test_submitit_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    told = "told.write_text(json.dumps({'result': {'finished': True, 'where': os.getcwd()}})); print('a line')"
    tasks = [task(tmp_path, 1, told), task(tmp_path, 2, "sys.exit(5)")]
    with Stop() as stop:
        ended = {t.number: c for t, c in Submitit("local", poll_s=0.05).launch(tasks, tmp_path, stop)}
    assert ended == {1: 0, 2: 1}
    assert read_outcome(tasks[0].told)["result"] == {"finished": True, "where": os.getcwd()}
    assert "ended without a word" in read_outcome(tasks[1].told)["error"]
    assert "a line" in (tmp_path / "logs/1.log").read_text()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with SLURM's programs: sbatch keeps the scripts, sacct shows the file `states`."""
    submitit = pytest.importorskip("submitit")
    programs = {
        "srun": "",
        "sbatch": 'cp "$1" "$HERE/sent-$(ls "$HERE" | grep -c ^sent).sh"; echo "Submitted batch job 77"',
        "sacct": 'cat "$HERE/states"',
    }
    for name, text in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setattr(cluster, "GRACE_S", 0)
    states(tmp_path, {})
    submitit.SlurmJob.watcher.clear()
    yield tmp_path
    submitit.SlurmJob.watcher.clear()


def states(folder: Path, found: dict[str, str]) -> None:
    lines = ["JobID|State|NodeList", *(f"{job}|{state}|n1" for job, state in found.items())]
    (folder / "states").write_text("\n".join(lines) + "\n")


def test_submitit_on_slurm(slurm: Path) -> None:
    needs = Needs(devices=2, machines=3)
    tasks = [task(slurm, number, "", needs) for number in (1, 2, 3)]
    launcher = Submitit(jobs=2, poll_s=0.01, partition="long", parameters={"exclude": "node7"}, setup=["module load x"])
    with Stop() as stop:
        ended = []
        states(slurm, {"77_0": "RUNNING", "77_1": "OUT_OF_MEMORY", "77_2": "PENDING"})
        watching = launcher.launch(tasks, slurm, stop)
        ended.append(next(watching))  # SLURM says that it is over, and it said nothing
        tasks[0].told.write_text(
            json.dumps({"error": "SIGUSR1 after step 5", "code": 138})
        )  # it goes into the queue again
        tasks[2].told.write_text(json.dumps({"result": {"finished": True}, "code": 0}))
        ended.append(next(watching))
        stop.received = signal.SIGINT
        ended += watching
    assert [(t.number, code) for t, code in ended] == [(2, 1), (3, 0), (1, None)]
    assert "77_1 ended without a word: OUT_OF_MEMORY" in read_outcome(tasks[1].told)["error"]
    (script,) = slurm.glob("sent-*.sh")
    lines = script.read_text().splitlines()
    for line in ("array=0-2%2", "nodes=3", "ntasks-per-node=2", "gpus-per-node=2", "signal=USR1@120", "requeue",
                 "partition=long", "exclude=node7"):  # fmt: skip
        assert f"#SBATCH --{line}" in lines
    assert "module load x" in lines

    states(slurm, {"77_0": "RUNNING"})
    with Stop() as stop:
        again = launcher.launch(tasks[:1], slurm, stop)
        tasks[0].told.write_text(json.dumps({"result": {"finished": True}, "code": 0}))
        tasks[0].told.rename(slurm / "kept")
        threading.Timer(0.3, lambda: (slurm / "kept").rename(tasks[0].told)).start()
        assert [(t.number, code) for t, code in again] == [(1, 0)]
    assert len(list(slurm.glob("sent-*.sh"))) == 1  # it was found again, not submitted again


def test_devices_of_a_job_on_slurm() -> None:
    pytest.importorskip("submitit")
    launcher = Submitit()
    assert launcher.devices(Needs(None)) == (1, 1)
    assert launcher.devices(Needs(4, gpu=False)) == (4, 0)
    assert Submitit(gpus=8).devices(Needs(None)) == (8, 8)


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with Stop() as stop, pytest.raises(ConfigError, match=r"no SLURM.*launcher\.cluster=local"):
        list(Submitit().launch([task(tmp_path, 1, "")], tmp_path, stop))


def test_launchers_are_chosen_and_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = choose_launcher(["launcher=joblib", "launcher.jobs=3"])
    assert isinstance(chosen, Joblib) and chosen.jobs == 3
    assert isinstance(choose_launcher([]), Sequential)
    found = choose_launcher(["launcher=submitit", "launcher.parameters.exclude=node7"])
    assert isinstance(found, Submitit) and found.parameters["exclude"] == "node7"
    with pytest.raises(ConfigError, match="allowed: joblib, sequential, submitit"):
        choose_launcher(["launcher=slurm"])
    with pytest.raises(ConfigError, match=r"launcher\.jobs: got 0"):
        choose_launcher(["launcher=joblib", "launcher.jobs=0"])
    monkeypatch.setattr("lgrep.sweeps.launchers.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lgrep\[cluster\]'"):
        choose_launcher(["launcher=submitit"])
    assert run("train", "", lambda values, choices: None, ["launcher=joblib", "seed=1"]) == 2
    assert "Add -m" in capsys.readouterr().err
