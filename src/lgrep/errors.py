"""Errors a person can act on: each message says what was got, what is allowed and what to type."""

from __future__ import annotations

import difflib
import signal
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


class Interrupted(BaseException):
    """A run stopped on request, its state saved. No handler of an Exception sees it.

    Args:
        signal_number: what asked for it.
        step: optimiser steps done and saved.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signal_number).name} after step {step}")
        self.signal_number = signal_number
        self.step = step

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


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
