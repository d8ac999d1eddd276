"""Search settings with Optuna: `python scripts/sweep.py 'optimizer.base_lr=log(1e-4,1e-2)' --trials 30`.

What is searched is typed as an override: key=log(a,b), key=uniform(a,b), key=int(a,b), key=int(log(a,b)),
key=choice(x,y), key=range(a,b,step). All other overrides are as for train.py. Each trial is a training in a process and
a run folder of its own. The same command goes on after any interruption, typed in several terminals it shares the
trials among them, and a larger --trials adds some. launcher=joblib or launcher=submitit with launcher.jobs=N starts N
such processes. A trial that fails ends nothing; a summary comes at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lgrep.cli import program, with_demo
from lgrep.errors import ConfigError

ENTRY = Path(__file__).resolve().parents[1] / "train.py"


@program
def main(arguments: Sequence[str] | None = None, entry: Path = ENTRY) -> int:
    """Run the study; exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_intermixed_args(typed)
    from lgrep.sweeps.outcome import alone, tell_outcome

    with alone():
        code = _search(options, typed, entry)
    tell_outcome({"finished": code == 0}, None, code)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings, searched or not")
    parser.add_argument("--trials", type=int, default=20, help="in all, those of earlier starts included")
    parser.add_argument("--metric", default="probe/knn_top1", help="of the run's summary")
    parser.add_argument("--direction", choices=("maximize", "minimize"), help="default: maximize, minimize for a loss")
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler; the run's is seed=N")
    parser.add_argument("--prune", action="store_true", help="give up trials below the median at the same step")
    parser.add_argument("--storage", help="URL of a database; default: a file in the study's folder")
    parser.add_argument("--report", action="store_true", help="only the summary of what is there")
    return parser


def _search(options: argparse.Namespace, typed: Sequence[str], entry: Path) -> int:
    from lgrep.sweeps.launchers import Sequential, choose_launcher, split_launcher
    from lgrep.sweeps.run import refuse_torchrun
    from lgrep.sweeps.space import split_space
    from lgrep.sweeps.study import Goal, Study
    from lgrep.sweeps.study_report import report_study
    from lgrep.sweeps.trials import run_trials
    from lgrep.training.resolve import resolve

    refuse_torchrun()
    if options.trials < 1:
        raise ConfigError(f"--trials {options.trials}: at least one")
    own, rest = split_launcher(options.overrides)
    launcher = choose_launcher(own)
    fixed, space = split_space(with_demo(rest, "stablerep_emoji"))
    direction: Literal["maximize", "minimize"]
    direction = options.direction or ("minimize" if "loss" in options.metric else "maximize")
    goal = Goal(
        options.metric, direction, options.trials, options.seed, options.sampler, options.prune, options.storage
    )
    study = Study(fixed, space, goal, resolve)
    if options.report:
        return 0 if report_study(study) else 1
    print(f"study -> {study.folder}", flush=True)
    worker = "LGREP_STUDY_WORKER" in os.environ
    code = run_trials(study, entry) if isinstance(launcher, Sequential) else _workers(study, launcher, typed)
    if not worker:
        found = report_study(study)
        code = code or int(not found)
        if code > 128:
            print("stopped. Type the same command to go on", file=sys.stderr)
    return code


def _workers(study: Any, launcher: Any, typed: Sequence[str]) -> int:
    """Start the program several times, where the launcher says, and wait for all."""
    from lgrep.sweeps.launchers import Stop, Task, split_launcher
    from lgrep.sweeps.outcome import read_outcome

    count = getattr(launcher, "jobs", None)
    if count is None:
        raise ConfigError("how many trials at once? Type launcher.jobs=N")
    os.environ["LGREP_STUDY_WORKER"] = "1"
    command = [sys.executable, os.path.abspath(sys.argv[0]), *split_launcher(typed)[1]]
    numbers = range(1, min(count, study.goal.trials) + 1)
    tasks = [
        Task(n, f"worker {n}", command, study.folder / f"outcomes/worker-{n}.json",
             study.folder / f"logs/worker-{n}.log", study.needs)
        for n in numbers
    ]  # fmt: skip
    failed = 0
    with Stop(passes_on="SLURM_STEP_ID" not in os.environ) as stop:
        for task, code in launcher.launch(tasks, study.folder, stop):
            if code:
                failed += 1
                print(
                    f"{task.text}: {read_outcome(task.told).get('error') or f'exit code {code}; see {task.log}'}",
                    file=sys.stderr,
                )
    del os.environ["LGREP_STUDY_WORKER"]
    return 128 + stop.received if stop.received is not None else int(failed == len(tasks))


if __name__ == "__main__":
    sys.exit(main())
