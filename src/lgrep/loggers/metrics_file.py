"""The metrics file: one CSV row per logged step, appended, never rewritten on resume."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only


class MetricsFile(Logger):
    """Writes `metrics.csv` (wide: a column `step` and one per metric, empty where nothing was logged).

    Rows are appended as steps complete, so a killed run keeps them; `cut_back` removes the rows that a
    resumed run is going to write again, so that the file ends up equal to that of a run without
    interruption. Only values that are a function of the training state belong here (no timings).

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self.columns: list[str] = ["step"]
        self._pending: dict[str, str] = {}
        if self.path.exists():
            self.columns = read_rows(self.path)[0]

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {key: repr(float(value)) for key, value in metrics.items() if key != "epoch"}
        if not row:
            return
        if self._pending and self._pending["step"] != str(step):
            self.save()
        self._pending.update({"step": str(step), **row})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is kept in `config.yaml`."""

    @rank_zero_only
    def save(self) -> None:
        """Write the row in progress."""
        if not self._pending:
            return
        new = [key for key in self._pending if key not in self.columns]
        if new and self.path.exists():
            columns, rows = read_rows(self.path)
            self.columns = columns + new
            _write(self.path, self.columns, rows)
        else:
            self.columns += new
        fresh = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, self.columns)
            if fresh:
                writer.writeheader()
            writer.writerow(self._pending)
        self._pending = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """Keep the rows of steps before `step` (0-based), and the columns they use."""
        if not self.path.exists():
            return
        columns, rows = read_rows(self.path)
        kept = [row for row in rows if int(row["step"]) < step]
        self.columns = [name for name in columns if name == "step" or any(row[name] for row in kept)]
        if kept:
            _write(self.path, self.columns, kept)
        else:
            self.path.unlink()
            self.columns = ["step"]


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and whole rows; a last line cut short by a kill is left out."""
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    reader = csv.DictReader(lines)
    rows = [row for row in reader if None not in row.values() and None not in row]
    return list(reader.fieldnames or ["step"]), rows


def _write(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)
