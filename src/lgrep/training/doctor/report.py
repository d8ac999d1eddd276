"""The doctor's table, its paragraph and its file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from lgrep.config.identity import identity
from lgrep.files import write_text
from lgrep.records import provenance
from lgrep.training.doctor.measured import LOADING_PARTS, Measured, loading_capacity, training_capacity
from lgrep.training.doctor.rules import Verdict
from lgrep.training.resolve import Resolved

ORDER = (
    *LOADING_PARTS,
    "copy",
    "device augmentation",
    "backbone",
    "head",
    "loss",
    "backward",
    "recompute",
    "optimiser",
    "after_step",
    "callbacks",
    "other",
)


def write_report(resolved: Resolved, measured: Measured | None, found: Verdict) -> dict[str, Any]:
    """Write `<runs>/doctor/<name>-<identity>.json`; the same as a dict, with its `path`."""
    path = Path(resolved.config.paths.runs) / "doctor" / f"{resolved.name}-{identity(resolved.values)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "bound": found.bound,
        "verdict": found.text,
        "advice": [asdict(item) for item in found.advice],
        "measured": None if measured is None else asdict(measured),
        "choices": resolved.choices,
        **provenance(),
    }
    if measured is not None:
        report["pictures_per_second"] = {
            "now": measured.pictures / (measured.step + measured.periodic_seconds),
            "loading": loading_capacity(measured),
            "training": training_capacity(measured),
        }
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return {**report, "path": str(path)}


def show(resolved: Resolved, measured: Measured | None, found: Verdict, path: str) -> None:
    """Print the table, the verdict and what to type."""
    console = Console(width=120, highlight=False)
    if measured is not None:
        console.print(_step_table(measured))
        if measured.workers and measured.stages:
            console.print(_loading_table(measured))
    console.print(escape(found.text))
    for number, item in enumerate(found.advice):
        gain = f" -> about {item.gain:.2f} x pictures/s" if item.gain > 1 else ""
        console.print(f"{'try' if number == 0 else ' or'}  [bold]{escape(item.type)}[/bold]{gain}", soft_wrap=True)
        console.print(f"     {escape(item.why)}".replace("%", " %"), soft_wrap=True)
    if not found.advice:
        console.print("No setting that was looked at makes this run more than 5 % faster.")
    console.print(f"all numbers: {escape(path)}", soft_wrap=True)


def _step_table(m: Measured) -> Grid:
    grid = Grid(title="one training step", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, justify in (("part", "left"), ("ms", "right"), ("share", "right"), ("", "left")):
        grid.add_column(name, justify=justify)  # type: ignore[arg-type]
    total = sum(m.parts.values())
    for part in sorted(m.parts, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
        grid.add_row(part, *_cells(m.parts[part], total))
    for setting, (seconds, every) in m.periodic.items():
        note = f"callbacks.{setting}: {seconds:.3g} s every {every} steps, beside the steps above"
        grid.add_row("", f"{1e3 * seconds / every:.2f}", "", note)
    grid.add_row("sum", f"{1e3 * total:.2f}", "", f"a step as it runs takes {1e3 * m.step:.2f} ms")
    return grid


def _loading_table(m: Measured) -> Grid:
    title = f"one batch in one of {m.workers} loading process(es)"
    grid = Grid(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, justify in (("stage", "left"), ("ms", "right"), ("share", "right"), ("", "left")):
        grid.add_column(name, justify=justify)  # type: ignore[arg-type]
    for stage, seconds in m.stages.items():
        grid.add_row(stage, *_cells(seconds * m.anchors, m.loading))
    return grid


def _cells(seconds: float, total: float) -> tuple[str, str, str]:
    share = seconds / max(total, 1e-12)
    return f"{1e3 * seconds:.2f}", f"{share:.0%}".replace("%", " %"), "█" * round(30 * share)
