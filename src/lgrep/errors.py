"""Errors a person can act on: each message says what was got, what is allowed and what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LgrepError(Exception):
    """Base of all errors that are shown as one short message without a traceback."""

    exit_code = 1


class ConfigError(LgrepError):
    """The composed configuration cannot be run (exit code 2)."""

    exit_code = 2


class DataError(LgrepError):
    """The data is missing, unreadable or contradicts the configuration (exit code 3)."""

    exit_code = 3


class CheckpointError(LgrepError):
    """A checkpoint or run folder cannot be used (exit code 4)."""

    exit_code = 4


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like `name`, or None when nothing is close.

    >>> nearest("temprature", ["temperature", "projector"])
    'temperature'
    """
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """A sentence naming the nearest allowed word, else the allowed words.

    >>> did_you_mean("lrr", ["lr", "betas"])
    "did you mean 'lr'?"
    """
    allowed = sorted(allowed)
    best = nearest(name, allowed)
    if best is not None:
        return f"did you mean '{best}'?"
    return f"allowed: {', '.join(allowed)}" if allowed else "nothing is allowed here"
