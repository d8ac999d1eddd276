"""Jobs of a sweep on SLURM, by submitit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from lgrep.errors import ConfigError
from lgrep.files import write_text
from lgrep.sweeps.command import Command
from lgrep.sweeps.launchers.base import Launcher, Needs, Stop, Task
from lgrep.sweeps.outcome import OUTCOME, read_outcome

SUBMITTED = "submitted.json"
GRACE_S = 5.0  # that a file of another machine may take to be seen here


class Submitit(Launcher):
    """Every job of the sweep is a job of SLURM; this process only watches them.

    `trainer.num_nodes` and `trainer.devices` say how many machines, tasks and GPUs a job asks for. Stopping the sweep
    leaves the jobs alone: the same command finds them again, in the queue or at work, and watches on. Jobs with equal
    needs are one array.

    Args:
        cluster: `slurm`, or `local`: processes of this machine, to try a sweep out (all start at once).
        jobs: at most so many of an array at once.
        timeout_min: minutes that a job may take before it is signalled and requeued.
        cpus_per_task: cores of each process.
        gpus: per machine; None: `trainer.devices`, or 1 where that is auto, and none for `trainer.accelerator=cpu`.
        mem_gb: memory per machine.
        partition, account, qos, constraint: of SLURM.
        setup: shell lines before each job, e.g. `module load cuda`.
        parameters: any further option of sbatch by its long name, e.g. `{exclude: node7}`.
        signal_delay_s: notice, in seconds, before the time is over (SIGUSR1).
        poll_s: seconds between two looks at the jobs.

    Raises:
        ConfigError: submitit is not installed; there is no SLURM here, or it refuses a job (when they are launched).
    """

    def __init__(
        self,
        cluster: Literal["slurm", "local"] = "slurm",
        jobs: PositiveInt = 16,
        timeout_min: PositiveInt = 1440,
        cpus_per_task: PositiveInt | None = None,
        gpus: NonNegativeInt | None = None,
        mem_gb: PositiveFloat | None = None,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        setup: list[str] | None = None,
        parameters: dict[str, Any] | None = None,
        signal_delay_s: PositiveInt = 120,
        poll_s: PositiveFloat = 10.0,
    ) -> None:
        if find_spec("submitit") is None:
            raise ConfigError(
                "launcher=submitit needs the package 'submitit', which is not installed. Type pip install "
                "'lgrep[cluster]', or launcher=joblib"
            )
        self.cluster, self.jobs, self.timeout_min, self.poll_s = cluster, jobs, timeout_min, poll_s
        self.cpus_per_task, self.gpus, self.mem_gb, self.setup = cpus_per_task, gpus, mem_gb, list(setup or [])
        self.queue = {"partition": partition, "account": account, "qos": qos, "constraint": constraint}
        # submitit would have SIGUSR2 sent, which a training does not know
        asked = {"signal": f"USR1@{signal_delay_s}", "requeue": True, "wckey": "lgrep"}
        self.parameters = {**asked, **(parameters or {})}

    def launch(self, tasks: Sequence[Task], folder: Path, stop: Stop) -> Iterator[tuple[Task, int | None]]:
        if not tasks:
            return
        jobs = self._known(tasks, folder)
        if jobs:
            print(f"{len(jobs)} of {len(tasks)} jobs are in the queue or at work already", flush=True)
        missing = [task for task in tasks if task.number not in jobs]
        if missing and stop.received is None:
            self._submit(missing, folder, jobs)
        for task in missing:
            if task.number in jobs:
                print(f"job {task.number}: {task.text} -> {jobs[task.number].job_id}, {task.log}", flush=True)
        waiting = {task.number: task for task in tasks if task.number in jobs}
        while waiting and stop.received is None:
            for place, (number, task) in enumerate(list(waiting.items())):
                code = self._ended(task, jobs[number], stop, look=place == 0)
                if code is not None:
                    del waiting[number]
                    yield task, code
            if waiting:
                stop.pause(self.poll_s)
        for task in waiting.values():
            yield task, None
        if waiting and self.cluster == "slurm":
            names = sorted({str(jobs[number].job_id).partition("_")[0] for number in waiting})
            print(
                f"{len(waiting)} jobs go on in SLURM. To end them: scancel --signal=INT {' '.join(names)}", flush=True
            )

    def _known(self, tasks: Sequence[Task], folder: Path) -> dict[int, Any]:
        """Jobs of an earlier start that SLURM still has."""
        try:
            stored = json.loads((folder / SUBMITTED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if self.cluster != "slurm" or not isinstance(stored, dict):
            return {}  # a job that still runs on this machine is waited for by the one that follows it
        from submitit import SlurmJob

        found: dict[int, Any] = {}
        for task in tasks:
            name = str(stored.get(str(task.number), ""))
            if name and not _final(read_outcome(task.told)):
                job: Any = SlurmJob(folder / "submitit", name)
                state = job.watcher.get_state(name, mode="standard" if found else "force")
                if state != "UNKNOWN" and not job.watcher.is_done(name, mode="cache"):
                    found[task.number] = job
        return found

    def _submit(self, tasks: Sequence[Task], folder: Path, jobs: dict[int, Any]) -> None:
        """Submit, add to `jobs` and write down."""
        groups: dict[Needs, list[Task]] = {}
        for task in tasks:
            groups.setdefault(task.needs, []).append(task)
        for needs, members in groups.items():
            executor = self._executor(needs, folder)
            for task in members:
                task.told.parent.mkdir(parents=True, exist_ok=True)
                task.told.unlink(missing_ok=True)
            commands = [
                Command(task.command, os.getcwd(), {OUTCOME: str(task.told.absolute())}, str(task.log.absolute()))
                for task in members
            ]
            try:
                submitted = executor.submit_array(commands)
            except Exception as error:  # whatever SLURM answers
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise ConfigError(f"launcher=submitit: the jobs were refused: {' '.join(lines[:4])}") from error
            jobs |= {task.number: job for task, job in zip(members, submitted, strict=True)}
            write_text(folder / SUBMITTED, json.dumps({n: job.job_id for n, job in jobs.items()}, indent=1) + "\n")

    def _executor(self, needs: Needs, folder: Path) -> Any:
        import submitit

        place = folder.absolute() / "submitit"
        try:
            executor: Any = submitit.AutoExecutor(folder=place, cluster=self.cluster)
        except RuntimeError as error:
            raise ConfigError(
                "launcher=submitit: this machine has no SLURM (srun is not found). Type launcher.cluster=local to try "
                "the sweep here, or launcher=joblib"
            ) from error
        tasks, gpus = self.devices(needs)
        settings: dict[str, Any] = {"timeout_min": self.timeout_min, "gpus_per_node": gpus or None}
        if self.cluster == "slurm":
            settings |= {"nodes": needs.machines, "tasks_per_node": tasks, "name": folder.name, "mem_gb": self.mem_gb}
            settings |= {"cpus_per_task": self.cpus_per_task, "slurm_array_parallelism": self.jobs}
            settings |= {f"slurm_{name}": value for name, value in self.queue.items() if value is not None}
            settings |= {"slurm_additional_parameters": self.parameters, "slurm_setup": self.setup or None}
        executor.update_parameters(stderr_to_stdout=True, **settings)
        return executor

    def devices(self, needs: Needs) -> tuple[int, int]:
        """Processes and GPUs that a job has on each machine."""
        gpus = self.gpus if self.gpus is not None else (needs.devices or 1) * needs.gpu
        return needs.devices or max(1, gpus), gpus

    def _ended(self, task: Task, job: Any, stop: Stop, look: bool) -> int | None:
        """Exit code of a job that is over; a run that was stopped may be in the queue again, so SLURM is asked."""
        facts = read_outcome(task.told)
        if not _final(facts):
            if not job.done(force_check=look):
                return None
            stop.pause(GRACE_S if not facts and self.cluster == "slurm" else 0)
            facts = read_outcome(task.told)
            if not facts:
                facts = {"result": None, "error": f"{job.job_id} ended without a word: {job.state}", "code": 1}
                write_text(task.told, json.dumps(facts))
        return int(facts.get("code") or 0)


def _final(facts: dict[str, Any]) -> bool:
    """Whether nothing can follow: done, or failed, but not stopped by a signal."""
    return bool(facts) and int(facts.get("code") or 0) <= 128
