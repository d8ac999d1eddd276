"""Running the jobs of a sweep, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lgrep.config.compose import compose_config
from lgrep.errors import ConfigError, LgrepError
from lgrep.records import write_text
from lgrep.sweeps.jobs import Job, expand
from lgrep.sweeps.outcome import OUTCOME
from lgrep.sweeps.report import show_report, write_report

Check = Callable[[dict[str, Any], dict[str, str]], Any]


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        job: the combination.
        status: `finished`, `failed`, `interrupted` or `not run`.
        summary: the run's summary when finished.
        error: one line about a failure.
    """

    job: Job
    status: str = "not run"
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def run_sweep(config_name: str, arguments: list[str], check: Check) -> int:
    """Run every combination of a command line, one after the other, and report on all of them.

    Each job is the entry point's own command in a fresh process, writes the run folder that it would write
    alone, and may start further processes (`trainer.devices=2`). A job that fails is reported and the next
    one starts. The same command again runs only what is not finished. Table and plot are written below
    `<paths.runs>/sweeps/` after every job.

    Args:
        config_name: file of `configs/` to compose.
        arguments: the command line without `-m`.
        check: resolves a composed configuration, or raises ConfigError.

    Returns:
        Exit code: 0 all finished, 1 some failed, 130 or 143 when stopped.

    Raises:
        ConfigError: no job has a right configuration, or a launcher already started several processes.
    """
    if "LOCAL_RANK" in os.environ or "RANK" in os.environ:
        raise ConfigError("-m under torchrun: start the sweep as one process; each job starts trainer.devices=N itself")
    outcomes = [Outcome(job) for job in expand(config_name, arguments)]
    folder = _check_all(config_name, outcomes, check)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [outcome.job for outcome in outcomes]
    write_text(folder / "sweep.json", json.dumps([job.overrides for job in jobs], indent=1) + "\n")
    print(f"sweep of {len(jobs)} jobs -> {folder}", flush=True)
    code = 0
    for outcome in outcomes:
        print(f"\n[{outcome.job.number}/{len(jobs)}] {outcome.job.text}", flush=True)
        if outcome.status == "failed":
            print(f"error: {outcome.error}", file=sys.stderr, flush=True)
        else:
            code = _run_job(outcome, folder)
        write_report(outcomes, folder)
        if code > 128:
            break
    show_report(outcomes, folder)
    if code > 128:
        print("stopped. Type the same command to go on", file=sys.stderr)
        return code
    return 0 if all(outcome.status == "finished" for outcome in outcomes) else 1


def _check_all(config_name: str, outcomes: list[Outcome], check: Check) -> Path:
    """Mark the jobs with a wrong configuration; the folder of the sweep."""
    place, name, first_error = "", "", None
    for outcome in outcomes:
        try:
            resolved = check(*compose_config(config_name, outcome.job.overrides))
            place, name = place or resolved.config.paths.runs, name or resolved.name
        except LgrepError as error:
            first_error = first_error or error
            outcome.status, outcome.error = "failed", str(error)
    if first_error is not None and not place:
        raise first_error
    listed = "\n".join(sorted(" ".join(outcome.job.overrides) for outcome in outcomes))
    return Path(place) / "sweeps" / f"{name}_{hashlib.sha256(listed.encode()).hexdigest()[:8]}"


def _run_job(outcome: Outcome, folder: Path) -> int:
    """Run one job to its end; its exit code, or 128 + signal when the sweep is to stop."""
    told = folder / "outcome.json"
    told.unlink(missing_ok=True)
    command = [sys.executable, os.path.abspath(sys.argv[0]), *outcome.job.overrides]
    # a group of its own: a Ctrl-C reaches the job once, through the sweep
    process = subprocess.Popen(command, env={**os.environ, OUTCOME: str(told)}, process_group=0)
    with _forwarding(process) as received:
        code = process.wait()
    facts = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    told.unlink(missing_ok=True)
    outcome.summary = facts.get("result") or {}
    if code == 0 and outcome.summary.get("finished"):
        outcome.status = "finished"
        return 0
    if received:
        outcome.status, outcome.error = "interrupted", facts.get("error") or ""
        return 128 + received[0]
    outcome.status, outcome.error = "failed", _reason(facts, code)
    return 1


def _reason(facts: dict[str, Any], code: int) -> str:
    if facts.get("error"):
        return str(facts["error"])
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}; its traceback is above"


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to the job; what came."""
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
