"""Which saved state a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgrep.errors import CheckpointError, ConfigError
from lgrep.training.folder import RunFolder, checkpoint_problem

WORDS = ("auto", "never")
_DOES_NOT_FIT = "A run goes on from a state of the same method, backbone and optimiser; lgrep.load_encoder reads others"


def state_to_resume(folder: RunFolder, resume: str) -> tuple[Path | None, list[str]]:
    """The state that `resume` asks for, and what was wrong with newer ones.

    `auto` is the newest intact state of the run folder, `never` none (the folder is a fresh one). A path is a checkpoint,
    or a run folder (its newest intact state): this run begins there, and once it has states of its own it goes on from
    those, so that a command may be repeated after an interruption. A checkpoint of the run's own folder is always taken.

    Raises:
        ConfigError: neither a word nor an existing path.
        CheckpointError: the file is damaged, or no state in the folder is intact.
    """
    if resume in WORDS:
        return folder.latest_checkpoint()
    asked = Path(resume).expanduser()
    if not asked.exists():
        raise ConfigError(f"resume={resume}: there is no such file or folder. Type resume=auto, resume=never or a path")
    if asked.is_file() and asked.resolve().parent == folder.checkpoints.resolve():
        return _intact(asked), []
    own, problems = folder.latest_checkpoint()
    if own is not None or asked.resolve() == folder.path.resolve():
        return own, problems
    if asked.is_file():
        return _intact(asked), problems
    state, further = RunFolder(asked).latest_checkpoint()
    if state is None:
        reason = further[0] if further else "checkpoints/step-*.ckpt is missing"
        raise CheckpointError(
            f"resume={resume}: no state there can be used ({reason}). Type resume=auto or another path"
        )
    return state, problems + further


def step_of(state: Path | None) -> int:
    """Optimiser steps done in a state; 0 without one."""
    if state is None:
        return 0
    return int(torch.load(state, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def check_fit(state: Path | None, method: nn.Module, total_steps: int) -> None:
    """Refuse a state of another model or of a longer run.

    Raises:
        CheckpointError: says what differs first.
    """
    if state is None:
        return
    content: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True, mmap=True)
    found, wanted = content["state_dict"], method.state_dict()
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    other = [name for name in wanted if name in found and _shape(found[name]) != _shape(wanted[name])]
    if missing or unknown or other:
        what = (
            f"{other[0]} is {_shape(found[other[0]])} there and {_shape(wanted[other[0]])} here"
            if other
            else f"{(missing or unknown)[0]} is only in {'this run' if missing else 'the state'}"
        )
        raise CheckpointError(f"{state} does not fit this run: {what}. {_DOES_NOT_FIT}")
    if content["global_step"] > total_steps:
        raise CheckpointError(
            f"{state} is {content['global_step']} steps old, and this run has {total_steps}. Type a longer duration"
        )


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _intact(path: Path) -> Path:
    problem = checkpoint_problem(path)
    if (
        problem is None
        and not {"state_dict", "global_step", "loops"} <= torch.load(path, weights_only=True, mmap=True).keys()
    ):
        problem = "it has weights only, or another program wrote it"
    if problem is not None:
        raise CheckpointError(f"{path} cannot be resumed ({problem}). Type resume=auto, or the path of another state")
    return path
