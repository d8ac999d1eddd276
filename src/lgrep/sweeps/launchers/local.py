"""Jobs on this machine: one after the other, or several at once."""

from __future__ import annotations

import importlib
import os
import queue
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from pydantic import PositiveInt

from lgrep.data.workers import usable_cores
from lgrep.errors import ConfigError
from lgrep.sweeps.launchers.base import Launcher, Stop, Task
from lgrep.sweeps.outcome import OUTCOME


@dataclass(frozen=True)
class Slot:
    """A part of the machine.

    Attributes:
        gpus: as CUDA_VISIBLE_DEVICES names them; None: whatever the machine has.
        cores: numbers of the cores; None: all.
    """

    gpus: tuple[str, ...] | None = None
    cores: tuple[int, ...] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process in this part finds in its environment."""
        found = {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}
        if self.cores is not None and not hasattr(os, "sched_setaffinity"):
            found["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(len(self.cores)))
        return found


class Sequential(Launcher):
    """One job after the other on this machine, with its output in this terminal."""

    def launch(self, tasks: Sequence[Task], folder: Path, stop: Stop) -> Iterator[tuple[Task, int | None]]:
        for place, task in enumerate(tasks, 1):
            if stop.received is not None:
                return
            print(f"\n[{place}/{len(tasks)}] {task.text}", flush=True)
            yield task, run_here(task, stop)


class Joblib(Launcher):
    """Several jobs at once on this machine, by joblib; the output of each goes to a file.

    Cores and GPUs are divided among the jobs: each sees its own GPUs only, and its threads and loading processes
    keep to its own cores. Where there are fewer GPUs than jobs, which need one each, jobs share them.

    Args:
        jobs: at once; None: one per GPU, or one per four cores.
        gpus: of a job; None: as many as `trainer.devices` asks for, else an equal share.
        pin: keep each job to its cores.

    Raises:
        ConfigError: more GPUs per job than there are (when the jobs are launched).
    """

    def __init__(self, jobs: PositiveInt | None = None, gpus: PositiveInt | None = None, pin: bool = True) -> None:
        self.jobs, self.gpus, self.pin = jobs, gpus, pin

    def launch(self, tasks: Sequence[Task], folder: Path, stop: Stop) -> Iterator[tuple[Task, int | None]]:
        if not tasks:
            return
        joblib: Any = importlib.import_module("joblib")
        slots = self.slots(tasks)
        free: queue.Queue[Slot] = queue.Queue()
        for slot in slots:
            free.put(slot)
        places = {task.number: place for place, task in enumerate(tasks, 1)}
        print(f"{len(slots)} jobs at once{_shares(slots[0])}; their output is in {tasks[0].log.parent}", flush=True)

        def run(task: Task) -> tuple[Task, int | None, bool]:
            if stop.received is not None:
                return task, None, False
            slot = free.get()
            try:
                # One write, since other threads print too.
                print(f"[{places[task.number]}/{len(tasks)}] {task.text} -> {task.log.name}\n", end="", flush=True)
                with task.log.open("ab") as log:
                    return task, run_here(task, stop, slot, log), True
            finally:
                free.put(slot)

        tasks[0].log.parent.mkdir(parents=True, exist_ok=True)
        # threads, each of which waits for the process that it started
        pool = joblib.Parallel(n_jobs=len(slots), backend="threading", return_as="generator_unordered", batch_size=1)
        for task, code, started in pool(joblib.delayed(run)(task) for task in tasks):
            if started:
                yield task, code

    def slots(self, tasks: Sequence[Task]) -> list[Slot]:
        """The parts that the machine is divided into."""
        gpus = visible_gpus() if any(task.needs.gpu for task in tasks) else []
        jobs = min(self.jobs or (len(gpus) or max(1, usable_cores() // 4)), len(tasks))
        asked = max((task.needs.devices or 1 for task in tasks), default=1)
        groups = divided_gpus(gpus, jobs, self.gpus, asked)
        cores = divided_cores(len(groups)) if self.pin and len(groups) > 1 else [None] * len(groups)
        return [Slot(group, part) for group, part in zip(groups, cores, strict=True)]


def run_here(task: Task, stop: Stop, slot: Slot = Slot(), output: IO[bytes] | None = None) -> int:
    """Run a task in a process of this machine; its exit code."""
    code = stop.wait(start_here(task, slot, output))
    assert code is not None  # without a timeout
    return code


def start_here(task: Task, slot: Slot = Slot(), output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a task, in a process group of its own: a Ctrl-C reaches it once, through the sweep."""
    task.told.parent.mkdir(parents=True, exist_ok=True)
    task.told.unlink(missing_ok=True)
    environment = {**os.environ, **slot.environment, OUTCOME: str(task.told.absolute())}
    errors = None if output is None else subprocess.STDOUT
    process = subprocess.Popen(task.command, env=environment, process_group=0, stdout=output, stderr=errors)
    if slot.cores is not None and hasattr(os, "sched_setaffinity"):
        # before it has begun to count the cores; an error: it has ended, or the system does not allow it
        with suppress(OSError):
            os.sched_setaffinity(process.pid, slot.cores)
    return process


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without touching any."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def divided_gpus(gpus: Sequence[str], jobs: int, each: int | None, asked: int) -> list[tuple[str, ...] | None]:
    """GPUs of each of the jobs that run at once; None: there are none to divide.

    Args:
        gpus: of the machine.
        jobs: wanted at once.
        each: GPUs that a job is to have, if that was said.
        asked: most devices that a job asks for.

    Raises:
        ConfigError: a job needs more than there are.

    Example:
        >>> divided_gpus(["0", "1", "2", "3"], 2, None, 1)
        [('0', '1'), ('2', '3')]
        >>> divided_gpus(["0"], 2, None, 1)
        [('0',), ('0',)]
    """
    if not gpus:
        return [None] * jobs
    size = each or max(asked, len(gpus) // jobs)
    if size > len(gpus):
        setting = "launcher.gpus" if each else "trainer.devices"
        raise ConfigError(
            f"{setting}={size}, but this machine has {len(gpus)} GPU(s) to use. Type {setting}={len(gpus)}, "
            "or trainer.accelerator=cpu"
        )
    room = len(gpus) // size
    if size == 1 and each is None and jobs > room:
        return [(gpus[number % len(gpus)],) for number in range(jobs)]
    return [tuple(gpus[number * size : (number + 1) * size]) for number in range(min(jobs, room))]


def divided_cores(jobs: int) -> list[tuple[int, ...] | None]:
    """Cores of each of the jobs that run at once; jobs share where there are fewer cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(usable_cores()))
    if jobs >= len(cores):
        return [(cores[number % len(cores)],) for number in range(jobs)]
    bounds = [number * len(cores) // jobs for number in range(jobs + 1)]
    return [tuple(cores[start:end]) for start, end in pairwise(bounds)]


def _shares(slot: Slot) -> str:
    parts = [f"{len(slot.gpus)} GPU(s)"] if slot.gpus is not None else []
    parts += [f"{len(slot.cores)} core(s)"] if slot.cores is not None else []
    return f", each with {' and '.join(parts)}" if parts else ""
