"""A study keeps every trial through kills, failures and company."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import Program, run_program
from training.runs import overrides

from lgrep.config.compose import compose_config
from lgrep.errors import ConfigError
from lgrep.sweeps import study as study_module
from lgrep.sweeps import trials as trials_module
from lgrep.sweeps.launchers import Needs
from lgrep.sweeps.run import Check, Checked
from lgrep.sweeps.space import split_space
from lgrep.sweeps.study import Goal, Study, mend
from lgrep.sweeps.study_report import best_command, report_study
from lgrep.sweeps.trials import run_trials

pytest.importorskip("optuna")

TESTS = str(Path(__file__).resolve().parents[1])

# A training that takes no time: its score has its best value at x = 3.
ENTRY = """
import json, os, pathlib, signal, sys, time
told = pathlib.Path(os.environ['LGREP_OUTCOME'])
given = dict(text.split('=') for text in sys.argv[1:])
runs = pathlib.Path(given['runs'])
with (runs / 'started.txt').open('a') as file: file.write(' '.join(sys.argv[1:]) + '\\n')
x = float(given['x'])
{extra}
told.write_text(json.dumps({'result': {'finished': True, 'metrics': {'score': -(x - 3) ** 2, 'other': x}}}))
"""
DRIVER = """
import sys
sys.path[:0] = [{tests!r}, {tests!r} + '/sweeps']
from pathlib import Path
from sweeps.test_study import made
from lgrep.sweeps.trials import run_trials
runs = Path(sys.argv[1])
sys.exit(run_trials(made(runs, trials=int(sys.argv[2])), runs / 'entry.py'))
"""


def checked(config_name: str, given: list[str], check: Check) -> Checked:
    pairs = dict(text.split("=") for text in given)
    if pairs["x"] == "4.0":
        raise ConfigError("x=4.0 is refused")
    runs = Path(pairs["runs"])
    return Checked("tiny", runs / "tiny" / f"x{pairs['x']}", Needs(), runs / "sweeps")


def made(runs: Path, space: str = "x=uniform(0,6)", **goal: Any) -> Study:
    Checked.of = staticmethod(checked)  # type: ignore[method-assign,assignment]
    fixed, parameters = split_space([f"runs={runs}", space])
    return Study(fixed, parameters, Goal(**{"metric": "score", **goal}), lambda values, choices: None)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes the folder of a study, with the program that stands for a training."""
    monkeypatch.setattr(Checked, "of", Checked.of)  # put back afterwards
    monkeypatch.setenv("WANDB_RUN_GROUP", "none")

    def make(name: str, extra: str = "") -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "entry.py").write_text(ENTRY.replace("{extra}", extra))
        return tmp_path / name

    return make


def xs(study: Study) -> list[float]:
    return [trial.params["x"] for trial in study.study.trials]


def test_an_interrupted_study_proposes_the_same_and_repeats_nothing(runs: Callable[..., Path]) -> None:
    whole = runs("whole")
    study = made(whole, trials=12)
    assert run_trials(study, whole / "entry.py") == 0
    states = {trial.state.name for trial in study.study.trials}
    assert states == {"COMPLETE"} and len(set(xs(study))) == 12
    assert abs(study.best().params["x"] - 3) == min(abs(x - 3) for x in xs(study))

    # the program of the third trial kills the process of the study, then goes on alone
    kill = "if len((runs / 'started.txt').read_text().splitlines()) == 3: os.kill(os.getppid(), 9); time.sleep(0.3)"
    killed = runs("killed", kill.replace("os.getppid()", "int(os.environ['STUDY'])"))
    driver = killed / "driver.py"
    driver.write_text("import os\nos.environ['STUDY'] = str(os.getpid())\n" + DRIVER.format(tests=TESTS))
    first = run_program([sys.executable, str(driver), str(killed), "12"])
    assert first.returncode == -signal.SIGKILL, first.stderr
    again = made(killed, trials=12)
    assert [trial.state.name for trial in again.study.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert run_trials(again, killed / "entry.py") == 0
    assert xs(again) == xs(study)
    started = (killed / "started.txt").read_text().splitlines()
    assert len(started) == 13 and len(set(started)) == 12  # the interrupted one was started again
    more = made(killed, trials=13)  # the same study, one trial longer
    assert more.folder == again.folder and run_trials(more, killed / "entry.py") == 0
    assert len(more.study.trials) == 13 and xs(more)[:12] == xs(study)


def test_several_processes_share_the_trials(runs: Callable[..., Path]) -> None:
    folder = runs("shared", "time.sleep(0.1)")
    driver = folder / "driver.py"
    driver.write_text(DRIVER.format(tests=TESTS))
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [Program([sys.executable, str(driver), str(folder), "8"], **pipes) for _ in range(2)]
    errors = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    study = made(folder, trials=8)
    assert {trial.state.name for trial in study.study.trials} == {"COMPLETE"}
    started = (folder / "started.txt").read_text().splitlines()
    assert len(started) == len(set(started)) == len(study.study.trials) == 8
    assert all("[trial" in output for output, _ in errors)


def test_failures_end_nothing_and_are_named(runs: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    fails = "if x == 2: told.write_text(json.dumps({'error': 'out of luck', 'code': 1})); sys.exit(1)"
    folder = runs("failing", fails + "\nif x == 1: os.kill(os.getpid(), 9)")
    study = made(folder, "x=0.0,1.0,2.0,3.0,4.0", trials=25, sampler="random")
    assert run_trials(study, folder / "entry.py") == 0
    by_x: dict[str, set[Any]] = {}
    for trial in study.study.trials:
        by_x.setdefault(trial.params["x"], set()).add((trial.state.name, trial.user_attrs.get("error")))
    assert by_x == {
        "0.0": {("COMPLETE", None)}, "1.0": {("FAIL", "ended by SIGKILL")}, "2.0": {("FAIL", "out of luck")},
        "3.0": {("COMPLETE", None)}, "4.0": {("FAIL", "x=4.0 is refused")},
    }  # fmt: skip
    assert report_study(study)
    printed = capsys.readouterr().out
    assert "failed: out of luck" in printed and "best: python train.py" in printed
    (row, *_) = [row for row in csv.DictReader((study.folder / "trials.csv").open()) if row["x"] == "3.0"]
    assert (row["status"], float(row["value"]), float(row["other"])) == ("complete", 0.0, 3.0)
    assert shlex.split(best_command(study, study.best())) == [f"runs={folder}", "x=3.0"]
    assert (study.folder / "study.png").stat().st_size > 5000
    absent = made(folder, "x=0.5,0.25", metric="probe/knn_top1", trials=1)
    run_trials(absent, folder / "entry.py")
    assert "no metric probe/knn_top1, only other, score. Type --metric NAME" in capsys.readouterr().err


def test_a_signal_leaves_the_trial_to_the_next_start(runs: Callable[..., Path]) -> None:
    stop = "if not (runs / 'second').exists(): (runs / 'second').touch(); os.kill(os.getppid(), 15); time.sleep(60)"
    folder = runs("stopped", stop)
    study = made(folder, trials=2)
    assert run_trials(study, folder / "entry.py") == 143
    (open_trial,) = study.study.trials
    assert open_trial.state.name == "RUNNING"
    assert run_trials(made(folder, trials=2), folder / "entry.py") == 0
    assert made(folder, trials=2).study.trials[0].params == open_trial.params


def test_a_trial_below_the_median_is_given_up(runs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_module, "LOOK_S", 0.02)
    writes = """
number = len((runs / 'started.txt').read_text().splitlines())
run = runs / 'tiny' / ('x' + given['x']); run.mkdir(parents=True)
score = 1.0 if number < 6 else 0.1
(run / 'metrics.csv').write_text(f'step,score\\n9,{score}\\n19,{score}\\n')
if number == 6: time.sleep(60)
time.sleep(0.2)
"""
    folder = runs("pruned", writes)
    study = made(folder, trials=6, prune=True)
    assert run_trials(study, folder / "entry.py") == 0
    assert [trial.state.name for trial in study.study.trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert study.study.trials[-1].intermediate_values == {9: 0.1, 19: 0.1}


def test_half_a_line_of_the_journal_is_cut_off(runs: Callable[..., Path]) -> None:
    folder = runs("torn")
    study = made(folder, trials=2)
    run_trials(study, folder / "entry.py")
    with (study.folder / study_module.JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "wor')
    again = made(folder, trials=3)
    assert run_trials(again, folder / "entry.py") == 0
    assert len(made(folder, trials=3).study.trials) == 3
    mend(folder / "missing")


def test_what_cannot_run_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sweep

    runs = [
        text for text in overrides(tmp_path / "data", tmp_path / "runs") if not text.startswith("optimizer.base_lr")
    ]
    assert sweep.main([*runs, "optimizer.base_lrr=log(1e-4,1e-2)"]) == 2
    assert "optimizer.base_lrr: unknown setting; did you mean" in capsys.readouterr().err
    assert sweep.main([*runs, "optimizer.base_lr=1e-3"]) == 2
    assert "nothing to search" in capsys.readouterr().err
    assert sweep.main([*runs, "resume=never", "optimizer.base_lr=log(1e-4,1e-2)"]) == 2
    assert "resume=never" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert sweep.main([*runs, "optimizer.base_lr=log(1e-4,1e-2)"]) == 2
    assert "pip install 'lgrep[tuning]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_program_searches_real_trainings(tmp_path: Path) -> None:
    tiny = [
        text for text in overrides(tmp_path / "data", tmp_path / "runs") if not text.startswith("optimizer.base_lr")
    ]
    script = Path(TESTS).parent / "scripts" / "sweep.py"
    given = [*tiny, "duration.steps=3", "callbacks.linear=null", "optimizer.base_lr=log(1e-3,1e-1)"]
    two = ["launcher=joblib", "launcher.jobs=2"]
    done = run_program([sys.executable, str(script), *given, *two, "--trials", "2"])
    assert done.returncode == 0, done.stderr
    assert "2 jobs at once" in done.stdout
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["status"] for row in rows] == ["complete", "complete"]
    best = max(rows, key=lambda row: (float(row["value"]), -int(row["trial"])))
    assert f"optimizer.base_lr={best['optimizer.base_lr']}" in done.stdout
    for row in rows:
        summary = json.loads((Path(row["run_dir"]) / "summary.json").read_text())
        assert summary["metrics"]["probe/knn_top1"] == float(row["value"])
    command = next(line for line in done.stdout.splitlines() if line.startswith("best: ")).split("train.py ")[1]
    values, _ = compose_config("train", shlex.split(command))
    assert values["optimizer"]["base_lr"] == float(best["optimizer.base_lr"])
    assert not (set(os.listdir(tmp_path / "runs")) - {"tiny", "sweeps"})
