"""The run folder: its name from the configuration, and the checkpoints in it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from lgrep.checkpoints.seal import damage
from lgrep.config.compose import write_yaml
from lgrep.errors import ConfigError
from lgrep.records import write_text

# Settings that do not change what is computed; a run continues in its folder when they differ.
OPERATIONAL = ("name", "resume", "debug", "doctor", "paths", "logger", "checkpoint")
OPERATIONAL_NESTED = {
    "loader": ("workers", "cache_mb"),
    "trainer": ("log_every_n_steps", "non_finite", "timeout_s", "requeue"),
}


CHOSEN = "LGREP_RUN_FOLDER"  # environment variable with the folder that the first process chose


def identity(values: dict[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration, operational settings left out."""
    kept = {key: value for key, value in values.items() if key not in OPERATIONAL}
    for section, keys in OPERATIONAL_NESTED.items():
        kept[section] = {key: value for key, value in (kept.get(section) or {}).items() if key not in keys}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


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
