"""When a process of a run dies: the others end with one error that says so."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

from lgrep.errors import Interrupted, LgrepError
from lgrep.losses.gather import world
from lgrep.training.folder import RunFolder

# How gloo and the store, whose errors have no class of their own, name themselves.
_BACKEND = re.compile(r"(?i)gloo|nccl|tcpstore|process ?group|connection (closed|reset) by peer")
_CLAIM = "failed"


class ProcessLost(LgrepError):
    """Another process of the run died or does not answer (exit code 1)."""


def forget_failure(folder: RunFolder) -> None:
    """Before the processes of a new start meet."""
    (folder.path / _CLAIM).unlink(missing_ok=True)


@contextmanager
def lost_processes(folder: RunFolder, timeout_s: int) -> Iterator[None]:
    """Turns the many errors of a lost process into one.

    The process that fails first claims a file in the run folder; what others run into because of it, they end of
    without a word.

    Args:
        folder: of the run.
        timeout_s: how long processes wait for each other.

    Raises:
        ProcessLost: in one process.
        SystemExit: with code 1 in the others.
    """
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:
        number = world()[1]
        if number == 1:
            raise
        first = _claim(folder.path / _CLAIM)
        if not _is_loss(error):
            raise
        if not first:
            raise SystemExit(1) from None
        state = max((path.name for path in folder.checkpoints.glob("step-*.ckpt")), default=None)
        raise ProcessLost(
            f"one of the {number} processes of this run died, or did not answer for trainer.timeout_s={timeout_s} s; its "
            f"own log, or the kernel's (out of memory), says why. {state or 'No state'} is saved. "
            "Type the same command to go on from there"
        ) from error


def _is_loss(error: BaseException) -> bool:
    if isinstance(error, LgrepError):
        return False
    if isinstance(error, (distributed.DistBackendError, distributed.DistNetworkError, distributed.DistStoreError)):
        return True
    return isinstance(error, RuntimeError) and _BACKEND.search(str(error)) is not None


def _claim(path: Path) -> bool:
    """Whether this process is the first to say it; also where nothing can be written."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
