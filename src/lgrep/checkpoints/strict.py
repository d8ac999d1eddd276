"""Weights of a part of a model, which must fit it exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lgrep.errors import CheckpointError


def below(states: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with `prefix`, without it.

    >>> import torch
    >>> list(below({"backbone.conv": torch.zeros(1), "head": torch.zeros(1)}, "backbone."))
    ['conv']
    """
    return {key.removeprefix(prefix): value for key, value in states.items() if key.startswith(prefix)}


def load_strictly(encoder: nn.Module, states: Mapping[str, Tensor], file: str | Path) -> None:
    """Put weights into a module that they must fit exactly.

    Raises:
        CheckpointError: missing, unexpected or misshapen weights, listed.
    """
    expected = encoder.state_dict()
    wrong = [
        ("missing", sorted(expected.keys() - states.keys())),
        ("unexpected", sorted(states.keys() - expected.keys())),
        (
            "of another shape",
            [
                f"{key} {tuple(states[key].shape)} instead of {tuple(value.shape)}"
                for key, value in expected.items()
                if key in states and states[key].shape != value.shape
            ],
        ),
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:4])}" + (", ..." if len(keys) > 4 else "")
        for what, keys in wrong
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"the weights in {file} do not fit {getattr(encoder, 'name', 'it')}: {'; '.join(problems)}"
        )
    encoder.load_state_dict(states)
