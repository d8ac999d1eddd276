"""What trackers share: they show what `metrics.csv` holds, and never stop or change a training."""

from __future__ import annotations

import contextlib
import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyExperiment, rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only

from lgrep.errors import ConfigError


class Tracker(Logger):
    """Shows a run in another program, beside `metrics.csv`: same names, same values, same steps.

    It is opened when the training starts, on the first process only. An error of the tracker (a full disk, a
    server that answers with an error) is printed in one line; from then on the tracker is off for this run
    and the training goes on.

    A subclass says how its program is opened, written to and closed, without handling errors.

    Attributes:
        package: the package it needs, from the extra `trackers`.
        resumed: optimiser steps that the run had done when it was resumed, 0 for a new run.

    Args:
        run_dir: folder of the run.

    Raises:
        ConfigError: the package is not installed.
    """

    package: ClassVar[str]

    def __init__(self, run_dir: str) -> None:
        super().__init__()
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:  # no origin: a folder of that name, not the package
            raise ConfigError(
                f"logger={self.package} needs the package '{self.package}', which is not installed. "
                "Type pip install 'lgrep[trackers]', or logger=none"
            )
        self.run_dir = Path(run_dir)
        self.resumed = 0
        self._opened: Any = None
        self._off = False

    @abstractmethod
    def open(self) -> Any:
        """Start or continue the run in the other program; what comes back is `experiment`, None: do nothing."""

    @abstractmethod
    def write_metrics(self, values: dict[str, float], step: int) -> None:
        """Write the values of one step."""

    @abstractmethod
    def write_picture(self, name: str, path: Path, step: int) -> None:
        """Write the picture in the PNG file `path`."""

    @abstractmethod
    def close(self, success: bool) -> None:
        """End the run in the other program."""

    def flush(self) -> None:
        """Bring everything written so far to the disk."""

    @property
    def name(self) -> str:
        return self.package

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The other program's own object, for calls of your own; one that ignores every call when there is none."""
        self._attempt(lambda: None)
        return DummyExperiment() if self._off else self._opened

    def cut_back(self, step: int) -> None:
        """Told, before the training starts, that it goes on after `step` steps."""
        self.resumed = step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        if values and step is not None:
            self._attempt(self.write_metrics, values, step)

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Show the PNG file `path` under `name`."""
        self._attempt(self.write_picture, name, path, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The whole configuration is handed over when the run is opened."""

    def save(self) -> None:
        if self._opened is not None:
            self._attempt(self.flush)

    def finalize(self, status: str) -> None:
        if self._opened is not None:
            self._attempt(self.close, status == "success")
        self._off = True

    @rank_zero_only
    def _attempt(self, action: Callable[..., None], *args: Any) -> None:
        """Do it, unless the tracker is off; switch it off when that fails."""
        if self._off:
            return
        try:
            if self._opened is None:
                self._opened = self.open()
                self._off = self._opened is None
            if not self._off:
                action(*args)
        except Exception as error:
            self._off = True
            print(
                f"{self.name}: {first_line(error)}. It is off for the rest of this run; the training goes on",
                flush=True,
            )
            if self._opened is not None:
                with contextlib.suppress(Exception):
                    self.close(False)


def first_line(error: BaseException, limit: int = 160) -> str:
    """Kind and first line of an error.

    >>> first_line(OSError(28, "No space left on device"))
    'OSError: [Errno 28] No space left on device'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:limit]}" if lines else type(error).__name__
