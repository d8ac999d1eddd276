"""What launchers start, and how they are told to stop."""

from __future__ import annotations

import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lgrep.signals import CaughtSignals


@dataclass(frozen=True)
class Needs:
    """Devices of a job.

    Attributes:
        devices: on each machine; None: all there are.
        machines: number of them.
        gpu: whether a GPU is of use.
    """

    devices: int | None = 1
    machines: int = 1
    gpu: bool = True

    @classmethod
    def of(cls, config: Any) -> Needs:
        """Those of a typed configuration; entry points without a trainer take one device."""
        trainer = getattr(config, "trainer", None)
        if trainer is None:
            return cls(gpu=getattr(config, "device", "auto") != "cpu")
        devices = trainer.devices if isinstance(trainer.devices, int) else None
        return cls(devices, trainer.num_nodes, trainer.accelerator != "cpu")


@dataclass(frozen=True)
class Task:
    """A command to run.

    Attributes:
        number: of the job, from 1.
        text: what is swept, for people.
        command: program and arguments.
        told: file in which the job tells how it ended (`lgrep.sweeps.outcome`).
        log: file for its output, where it has no terminal of its own.
        needs: devices.
    """

    number: int
    text: str
    command: list[str]
    told: Path
    log: Path
    needs: Needs = Needs()


class Launcher(ABC):
    """Starts the jobs of a sweep. Each is a command in a process of its own, wherever that runs."""

    @abstractmethod
    def launch(self, tasks: Sequence[Task], folder: Path, stop: Stop) -> Iterator[tuple[Task, int | None]]:
        """Run all tasks, until `stop` is asked for.

        Args:
            tasks: in the order of the sweep.
            folder: of the sweep, for whatever a launcher has to remember.
            stop: tells whether to stop, and passes signals on to processes here.

        Yields:
            Each task as soon as it ended, with its exit code (negative: the signal that ended it); None: it goes on
            somewhere after a stop. Tasks that were never started are not given.
        """


class Stop(CaughtSignals):
    """Takes SIGINT, SIGTERM and SIGUSR1 for the processes of a sweep: a context manager for the main thread.

    A signal ends the start of further jobs and is passed on to the running ones, which save their state. Inside of a
    step of SLURM it is not passed on, as SLURM itself signals every process of a step, and a second signal would not
    let a job save.
    """

    def __init__(self, passes_on: bool = True) -> None:
        super().__init__()
        self._passes_on = passes_on
        self._running: set[subprocess.Popen[bytes]] = set()
        self._asked = threading.Event()

    def wait(self, process: subprocess.Popen[bytes], timeout: float | None = None) -> int | None:
        """The exit code of a process, which gets the signals until it ends; None: it did not within `timeout` seconds."""
        if process not in self._running:
            self._running.add(process)
            if self.received is not None and self._passes_on:  # it came between the start and now
                process.send_signal(self.received)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._running.discard(process)
        return code

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond a signal."""
        self._asked.wait(seconds)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._asked.set()
        if self._passes_on:
            for process in list(self._running):
                process.send_signal(number)
