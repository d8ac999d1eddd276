"""Running the jobs of a sweep, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lgrep.config.compose import compose_config
from lgrep.config.identity import identity
from lgrep.errors import ConfigError, LgrepError
from lgrep.files import write_text
from lgrep.sweeps.jobs import Job, expand
from lgrep.sweeps.launchers import Needs, Stop, Task, choose_launcher, split_launcher
from lgrep.sweeps.outcome import read_outcome
from lgrep.sweeps.report import show_report, write_report

Check = Callable[[dict[str, Any], dict[str, str]], Any]


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        job: the combination.
        status: `finished`, `failed`, `interrupted`, `in the queue` or `not run`.
        summary: the run's summary when finished.
        error: one line about a failure.
    """

    job: Job
    status: str = "not run"
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass
class Checked:
    """What follows from the configuration of a job before it runs.

    Attributes:
        name: of the run.
        run_dir: folder of a training with this configuration; of other jobs, a name that equal jobs share.
        needs: devices.
        sweeps: folder for sweeps.
        fresh: whether a new folder is asked for every time.
    """

    name: str
    run_dir: Path
    needs: Needs
    sweeps: Path
    fresh: bool = False

    @classmethod
    def of(cls, config_name: str, overrides: Sequence[str], check: Check) -> Checked:
        """Compose and check.

        Raises:
            ConfigError: the configuration is wrong.
        """
        values, choices = compose_config(config_name, overrides)
        told = identity(values)
        resolved = check(values, choices)
        runs = Path(resolved.config.paths.runs)
        fresh = getattr(resolved.config, "resume", "auto") == "never"
        return cls(resolved.name, runs / resolved.name / told, Needs.of(resolved.config), runs / "sweeps", fresh)

    def finished(self) -> dict[str, Any] | None:
        """The summary of the run when it is there already."""
        path = self.run_dir / "summary.json"
        if self.fresh or not path.is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and found.get("finished") else None


def run_sweep(config_name: str, arguments: list[str], check: Check) -> int:
    """Run every combination of a command line and report on all of them.

    Each job is the entry point's own command in a fresh process, writes the run folder that it would write
    alone, and may start further processes (`trainer.devices=2`). `launcher=NAME` says where jobs run. A job that
    fails is reported and the others go on. The same command again runs only what is not finished. Table and plot
    are written below `<paths.runs>/sweeps/` after every job.

    Args:
        config_name: file of `configs/` to compose.
        arguments: the command line without `-m`.
        check: resolves a composed configuration, or raises ConfigError.

    Returns:
        Exit code: 0 all finished, 1 some failed, 130, 138 or 143 when stopped.

    Raises:
        ConfigError: no job has a right configuration, the launcher cannot start jobs here, or another launcher
            already started several processes.
    """
    refuse_torchrun()
    own, rest = split_launcher(arguments)
    launcher = choose_launcher(own)
    outcomes = [Outcome(job) for job in expand(config_name, rest)]
    checked = _check_all(config_name, outcomes, check)
    first = next(iter(checked.values()))
    folder = first.sweeps / f"{first.name}_{_digest(outcomes)}"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "sweep.json", json.dumps([outcome.job.overrides for outcome in outcomes], indent=1) + "\n")
    print(f"sweep of {len(outcomes)} jobs -> {folder}", flush=True)
    tasks, repeated = _tasks(outcomes, checked, folder)
    group_runs(folder.name)
    with Stop(passes_on="SLURM_STEP_ID" not in os.environ) as stop:
        for task, code in launcher.launch(tasks, folder, stop):
            outcome = outcomes[task.number - 1]
            judge(outcome, task, code, stop.received)
            if outcome.error:
                print(f"job {task.number} {outcome.status}: {outcome.error}", file=sys.stderr, flush=True)
            write_report(outcomes, folder)
    for outcome, same in repeated:
        outcome.status, outcome.summary, outcome.error = same.status, same.summary, same.error
    write_report(outcomes, folder)
    show_report(outcomes, folder)
    if all(outcome.status == "finished" for outcome in outcomes):
        return 0
    if stop.received is not None:
        print("stopped. Type the same command to go on", file=sys.stderr)
        return 128 + stop.received
    return 1


def refuse_torchrun() -> None:
    """A sweep is one process.

    Raises:
        ConfigError: a launcher already started several.
    """
    if "LOCAL_RANK" in os.environ or "RANK" in os.environ:
        raise ConfigError("-m under torchrun: start the sweep as one process; each job starts trainer.devices=N itself")


def group_runs(name: str) -> None:
    """Have W&B show the jobs' runs as one group, unless the user named another."""
    os.environ.setdefault("WANDB_RUN_GROUP", name)


def task_of(number: int, text: str, overrides: Sequence[str], folder: Path, needs: Needs) -> Task:
    """The entry point's own command for one job."""
    command = [sys.executable, os.path.abspath(sys.argv[0]), *overrides]
    name = f"job-{number}"
    return Task(number, text, command, folder / "outcomes" / f"{name}.json", folder / "logs" / f"{name}.log", needs)


def judge(outcome: Outcome, task: Task, code: int | None, received: int | None) -> None:
    """Enter how a task ended."""
    facts = read_outcome(task.told)
    if code is None:
        outcome.status = "in the queue"
        return
    summary = facts.get("result")
    outcome.summary = summary if isinstance(summary, dict) else {}
    outcome.error = ""
    if code == 0 and outcome.summary.get("finished"):
        outcome.status = "finished"
    elif received is not None:
        outcome.status, outcome.error = "interrupted", facts.get("error") or ""
    else:
        outcome.status, outcome.error = "failed", _reason(facts, code, task)


def _check_all(config_name: str, outcomes: list[Outcome], check: Check) -> dict[int, Checked]:
    """Number -> what follows from its configuration; jobs with a wrong one are marked as failed."""
    checked: dict[int, Checked] = {}
    first_error = None
    for outcome in outcomes:
        try:
            checked[outcome.job.number] = Checked.of(config_name, outcome.job.overrides, check)
        except LgrepError as error:
            first_error = first_error or error
            outcome.status, outcome.error = "failed", str(error)
    if first_error is not None and not checked:
        raise first_error
    return checked


def _tasks(
    outcomes: list[Outcome], checked: dict[int, Checked], folder: Path
) -> tuple[list[Task], list[tuple[Outcome, Outcome]]]:
    """What is to run, and (job, equal job before it): two processes must never write one folder."""
    tasks: list[Task] = []
    repeated: list[tuple[Outcome, Outcome]] = []
    seen: dict[Path, Outcome] = {}
    for outcome in outcomes:
        number, text = outcome.job.number, outcome.job.text
        if number not in checked:
            print(f"job {number} ({text}) cannot run: {outcome.error}", file=sys.stderr, flush=True)
            continue
        about = checked[number]
        finished = about.finished()
        if finished is not None:
            outcome.status, outcome.summary = "finished", finished
            print(f"job {number} ({text}): {about.run_dir} holds the finished run", flush=True)
        elif about.run_dir in seen:
            repeated.append((outcome, seen[about.run_dir]))
            print(f"job {number} ({text}) is the same as job {seen[about.run_dir].job.number}", flush=True)
        else:
            seen[about.run_dir] = outcome
            tasks.append(task_of(number, text, outcome.job.overrides, folder, about.needs))
    return tasks, repeated


def _digest(outcomes: list[Outcome]) -> str:
    listed = "\n".join(sorted(" ".join(outcome.job.overrides) for outcome in outcomes))
    return hashlib.sha256(listed.encode()).hexdigest()[:8]


def _reason(facts: dict[str, Any], code: int, task: Task) -> str:
    if facts.get("error"):
        return str(facts["error"])
    place = f"see {task.log}" if task.log.is_file() else "its traceback is above"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}; {place}"
