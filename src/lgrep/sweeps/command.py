"""What a job of a cluster does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Command:
    """Becomes the command, so that signals reach that and nothing else.

    The run saves its state and asks SLURM for a requeue by itself (`docs/clusters.md`); submitit, which started it,
    is out of the way by then. This file imports nothing slow, as each job reads it first.

    Attributes:
        command: program and arguments.
        folder: to work in.
        environment: further variables.
        log: file for the output of the first process of the job.
    """

    command: list[str]
    folder: str
    environment: dict[str, str]
    log: str

    def __call__(self) -> None:
        os.chdir(self.folder)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            Path(self.log).parent.mkdir(parents=True, exist_ok=True)
            output = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            for stream in (1, 2):
                os.dup2(output, stream)
        os.execvpe(self.command[0], self.command, {**os.environ, **self.environment})
