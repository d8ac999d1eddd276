"""Entry points run as processes of their own, whose results come back."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgrep.errors import LgrepError
from lgrep.sweeps.launchers import Stop
from lgrep.sweeps.outcome import OUTCOME, read_outcome


class Stopped(BaseException):
    """The sweep is to end; its program has ended in its own way.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Programs:
    """Runs entry points, each in a fresh process: memory, threads and random state are its own, and so are its faults.

    Args:
        root: folder of `generate.py` and `train.py`.
        folder: where they tell how they ended; the same job tells the same file.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder.absolute()

    def __call__(self, program: str, overrides: Sequence[str]) -> dict[str, Any]:
        """Run a program to its end; what it shows is shown.

        Returns:
            Its summary.

        Raises:
            LgrepError: it failed; the message is its own.
            Stopped: a signal came, and was passed on.
        """
        typed = " ".join([program, *overrides])
        told = self.folder / f"{program}-{hashlib.sha256(typed.encode()).hexdigest()[:12]}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        told.unlink(missing_ok=True)
        command = [sys.executable, str(self.root / f"{program}.py"), *overrides]
        # a group of its own: a Ctrl-C reaches it once, through this process
        process = subprocess.Popen(command, env={**os.environ, OUTCOME: str(told)}, process_group=0)
        with Stop() as stop:
            stop.wait(process)
        if stop.received is not None:
            raise Stopped(stop.received)
        code, facts = process.returncode, read_outcome(told)
        summary = facts.get("result") or {}
        if code == 0 and summary.get("finished"):
            return dict(summary)
        reason = facts.get("error") or (f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        raise LgrepError(f"{program}.py {' '.join(overrides)}: {reason}")
