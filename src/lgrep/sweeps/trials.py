"""Running the trials of a study, one after the other in this process."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgrep.errors import LgrepError
from lgrep.loggers.metrics_file import read_rows
from lgrep.sweeps.jobs import Job
from lgrep.sweeps.launchers import Stop, Task
from lgrep.sweeps.launchers.local import start_here
from lgrep.sweeps.run import Checked, Outcome, group_runs, judge
from lgrep.sweeps.study import Study

_NOTHING = (
    "nor any other. It measured nothing: type trainer.log_every_n_steps=1, callbacks=default or a longer duration"
)
LOOK_S = 1.0  # seconds between two looks at the metrics of a trial that may be pruned


def run_trials(study: Study, entry: Path) -> int:
    """Run trials until the study has as many as were asked for, or a signal comes.

    Args:
        study: shared with other processes or not.
        entry: program that trains, `train.py`.

    Returns:
        Exit code: 0, or 128 + the signal's number. Trials that fail end nothing.
    """
    group_runs(study.name)
    with Stop(passes_on="SLURM_STEP_ID" not in os.environ) as stop:
        while stop.received is None:
            with study.next_trial() as trial:
                if trial is None:
                    return 0
                _run(study, trial, entry, stop)
    return 128 + (stop.received or 0)


def _run(study: Study, trial: Any, entry: Path, stop: Stop) -> None:
    overrides = study.overrides(trial)
    text = " ".join(overrides[len(study.fixed) :])
    print(f"\n[trial {trial.number + 1} of {study.goal.trials}] {text}", flush=True)
    try:
        about = Checked.of("train", overrides, study.check)
    except LgrepError as error:
        _failed(study, trial, str(error))
        return
    trial.set_user_attr("run_dir", str(about.run_dir))
    outcome = Outcome(Job(trial.number + 1, dict(trial.params), overrides))
    finished, pruned = about.finished(), False
    if finished is not None:
        print(f"{about.run_dir} holds the finished run", flush=True)
        outcome.status, outcome.summary = "finished", finished
    else:
        name = f"trial-{trial.number + 1}"
        command = [sys.executable, str(entry.absolute()), *overrides]
        told = study.folder / "outcomes" / f"{name}.json"
        task = Task(trial.number + 1, text, command, told, study.folder / "logs" / f"{name}.log", about.needs)
        code, pruned = _watch(study, trial, task, about.run_dir, stop)
        judge(outcome, task, code, stop.received)
    if outcome.status == "finished":
        _finished(study, trial, outcome.summary)
    elif pruned:
        print(f"trial {trial.number + 1} is given up: it is below the median of earlier ones", flush=True)
        study.prune(trial)
    elif stop.received is None:
        _failed(study, trial, outcome.error)
    # else: it stays open, and the next start goes on with it


def _watch(study: Study, trial: Any, task: Task, run_dir: Path, stop: Stop) -> tuple[int, bool]:
    """Run a trial's process; its exit code, and whether it was pruned."""
    process = start_here(task)
    if not study.goal.prune:
        code = stop.wait(process)
        assert code is not None  # without a timeout
        return code, False
    pruned, reported = False, set(_reported(study, trial))
    while True:
        code = stop.wait(process, LOOK_S)
        if code is not None:
            return code, pruned
        for step, value in _measured(run_dir, study.goal.metric):
            if step not in reported:
                reported.add(step)
                trial.report(value, step)
        if not pruned and reported and trial.should_prune():
            pruned = True
            process.send_signal(signal.SIGINT)  # not SIGTERM, which SLURM would answer by a requeue


def _reported(study: Study, trial: Any) -> Sequence[int]:
    return list(study.study.get_trials(deepcopy=False)[trial.number].intermediate_values)


def _measured(run_dir: Path, metric: str) -> list[tuple[int, float]]:
    """Steps and values of a metric that a run wrote so far."""
    path = run_dir / "metrics.csv"
    try:
        rows = read_rows(path)[1] if path.is_file() else []
    except OSError:
        return []
    return [(int(row["step"]), float(row[metric])) for row in rows if row.get(metric)]


def _finished(study: Study, trial: Any, summary: dict[str, Any]) -> None:
    metrics = summary.get("metrics") or {}
    value = metrics.get(study.goal.metric)
    if value is None:
        only = f"only {', '.join(sorted(metrics))}. Type --metric NAME" if metrics else _NOTHING
        _failed(study, trial, f"the run has no metric {study.goal.metric}, {only}", metrics)
    elif not math.isfinite(value):
        _failed(study, trial, f"{study.goal.metric} is {value}", metrics)
    else:
        study.end(trial, float(value), metrics=_finite(metrics))
        print(f"trial {trial.number + 1}: {study.goal.metric} {value:.6g}", flush=True)


def _failed(study: Study, trial: Any, error: str, metrics: dict[str, Any] | None = None) -> None:
    print(f"trial {trial.number + 1} failed: {error}", file=sys.stderr, flush=True)
    study.end(trial, None, error=error, metrics=_finite(metrics or {}))


def _finite(metrics: dict[str, Any]) -> dict[str, float]:
    """Databases store no NaN."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
