"""The run folder: its name from the configuration, and the checkpoints in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from lgrep.checkpoints.seal import damage
from lgrep.config.compose import write_yaml
from lgrep.config.identity import identity
from lgrep.errors import ConfigError
from lgrep.files import write_text

CHOSEN = "LGREP_RUN_FOLDER"  # environment variable with the folder that the first process chose


class RunFolder:
    """`<runs>/<name>/<identity>`: the same configuration finds the same folder again.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, runs: str, name: str, values: dict[str, Any], fresh: bool = False, rank: int = 0) -> RunFolder:
        """The folder of this configuration; with `fresh`, one that does not exist yet (`-2`, `-3`, ...).

        The first process chooses a fresh folder and tells those that it starts through the environment.

        Raises:
            ConfigError: a fresh folder is asked for by a process that was not started by the first one.
        """
        base = Path(runs) / name / identity(values)
        if not fresh:
            return cls(base)
        if rank > 0:
            if CHOSEN not in os.environ:
                raise ConfigError(
                    "resume=never needs the processes to be started by Lightning (trainer.devices=N). "
                    f"Under another launcher remove the folder {base} instead, or change name=..."
                )
            return cls(Path(os.environ[CHOSEN]))
        path, number = base, 2
        while path.exists():
            path, number = base.with_name(f"{base.name}-{number}"), number + 1
        os.environ[CHOSEN] = str(path)
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the saved states."""
        return self.path / "checkpoints"

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def create(self, values: dict[str, Any]) -> None:
        """Make the folder and write the resolved configuration."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_yaml(values, self.path / "config.yaml")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished."""
        write_text(self.path / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")

    def latest_checkpoint(self) -> tuple[Path | None, list[str]]:
        """The newest intact state, and what was wrong with newer ones."""
        problems: list[str] = []
        for path in sorted(self.checkpoints.glob("step-*.ckpt"), reverse=True):
            problem = checkpoint_problem(path)
            if problem is None:
                return path, problems
            problems.append(f"{path} is damaged ({problem})")
        return None, problems


def checkpoint_problem(path: Path) -> str | None:
    """Why a state cannot be used: its content hash, or whatever else is wrong with the file; None: it is intact."""
    try:
        problem = damage(path)
        if problem is None:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # any damage at all must lead to the previous state
        problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    return problem
