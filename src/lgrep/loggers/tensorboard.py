"""TensorBoard."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lgrep.loggers.tracker import Tracker


class TensorBoard(Tracker):
    """Writes event files to `tensorboard/` in the run folder; look at them with `tensorboard --logdir runs`.

    A resumed run adds a file that tells readers to forget the steps that are done again, so that every
    step is shown once. Values are kept in single precision, as TensorBoard's scalars are.

    Args:
        run_dir: folder of the run.
    """

    package = "tensorboard"

    def __init__(self, run_dir: str) -> None:
        super().__init__(run_dir)
        self.folder = self.run_dir / "tensorboard"
        self._thread_errors: Any = None

    def open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        fresh = not any(self.folder.glob("events.*"))
        self._hide_thread_errors()
        writer = SummaryWriter(str(self.folder), purge_step=None if fresh else self.resumed)  # type: ignore[no-untyped-call]
        if self.resumed == 0:
            text = (self.run_dir / "config.yaml").read_text(encoding="utf-8")
            writer.add_text("config", f"```yaml\n{text}\n```", 0)  # type: ignore[no-untyped-call]
        return writer

    def write_metrics(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._opened.add_scalar(name, value, step)

    def write_picture(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as picture:
            self._opened.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        self._opened.flush()

    def close(self, success: bool) -> None:
        try:
            self._opened.close()
        finally:
            threading.excepthook = self._thread_errors

    def _hide_thread_errors(self) -> None:
        """TensorBoard writes in a thread and raises its error again in ours, which reports it once."""
        self._thread_errors = before = threading.excepthook

        def hook(error: threading.ExceptHookArgs) -> None:
            if not type(error.thread).__module__.startswith("tensorboard."):
                before(error)

        threading.excepthook = hook
