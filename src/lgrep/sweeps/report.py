"""The table and the plot over the jobs of a sweep."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Grid

from lgrep.files import replacing, write_text

if TYPE_CHECKING:
    from lgrep.sweeps.run import Outcome

SHOWN = 5  # metrics in the printed table; jobs.csv has all
REPEAT = "seed"  # a swept seed repeats a point of the plot


def write_report(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write `jobs.csv`, and `sweep.png` once a job has finished."""
    keys, metrics = list(outcomes[0].job.swept), _metrics(outcomes)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["job", *keys, "status", *metrics, "pictures_per_second", "run_dir", "error"])
    for outcome in outcomes:
        summary = outcome.summary
        values = [summary.get("metrics", {}).get(name, "") for name in metrics]
        speed = summary.get("speed", {}).get("pictures_per_second", "")
        writer.writerow([outcome.job.number, *outcome.job.swept.values(), outcome.status, *values, speed,
                         summary.get("run_dir", ""), outcome.error])  # fmt: skip
    write_text(folder / "jobs.csv", buffer.getvalue())
    shown = headline(metrics)
    if shown and any(outcome.status == "finished" for outcome in outcomes):
        draw_sweep(outcomes, shown, folder / "sweep.png")


def show_report(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Print one line per job, the failures in words, and where the files are."""
    console = Console(highlight=False)
    metrics = headline(_metrics(outcomes))
    grid = Grid(title="sweep", title_justify="left")
    for name in ("job", *outcomes[0].job.swept, "status", *metrics):
        grid.add_column(name, overflow="fold")
    for outcome in outcomes:
        values = outcome.summary.get("metrics", {})
        cells = [f"{values[name]:.4f}" if name in values else "-" for name in metrics]
        grid.add_row(str(outcome.job.number), *outcome.job.swept.values(), outcome.status, *cells)
    console.print()
    console.print(grid)
    for outcome in outcomes:
        if outcome.error:
            console.print(f"job {outcome.job.number} ({outcome.job.text}) {outcome.status}: {outcome.error}",
                          markup=False, soft_wrap=True)  # fmt: skip
    plot = " and sweep.png" if (folder / "sweep.png").is_file() else ""
    console.print(f"jobs.csv{plot} are in {folder}", markup=False, soft_wrap=True)


def _metrics(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(name for outcome in outcomes for name in outcome.summary.get("metrics", {})))


def headline(metrics: Sequence[str]) -> list[str]:
    """The metrics that a sweep is judged by: those of the probes, else the losses.

    >>> headline(["train/loss", "train/lr", "probe/knn_top1"])
    ['probe/knn_top1']
    """
    probes = [name for name in metrics if name.startswith("probe/") and "loss" not in name]
    return (probes or [name for name in metrics if name.startswith("train/") and "loss" in name])[:SHOWN]


def draw_sweep(outcomes: Sequence[Outcome], metrics: Sequence[str], path: Path) -> None:
    """Write a PNG with one panel per metric over the swept setting that has the most numbers.

    Other swept settings are lines of their own; seeds are points around a line through their mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = [outcome for outcome in outcomes if outcome.status == "finished"]
    axis_key = _axis_key(outcomes)
    figure = Figure(figsize=(4.8 * len(metrics), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        groups = _lines(done, axis_key, metric)
        numeric = all(_is_number(x) for points in groups.values() for x in points)
        for label, points in sorted(groups.items()):
            places: list[Any] = [float(x) for x in points] if numeric else list(points)
            order = sorted(range(len(places)), key=places.__getitem__) if numeric else range(len(places))
            means = [sum(values) / len(values) for values in points.values()]
            line = axis.plot([places[i] for i in order], [means[i] for i in order], marker="o", markersize=4,
                             linewidth=1.4, label=label)[0]  # fmt: skip
            for place, values in zip(places, points.values(), strict=True):
                if len(values) > 1:
                    axis.scatter([place] * len(values), values, s=12, alpha=0.5, color=line.get_color())
        xs = [float(x) for points in groups.values() for x in points] if numeric else []
        if xs and min(xs) > 0 and max(xs) / min(xs) >= 20:
            axis.set_xscale("log")
        axis.set_title(metric, fontsize=10, loc="left", parse_math=False)
        axis.set_xlabel(axis_key or "job", fontsize=8, parse_math=False)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if any(groups):
            axis.legend(fontsize=7.5, frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _axis_key(outcomes: Sequence[Outcome]) -> str | None:
    """The swept setting for the x axis: numbers before names, a seed last, many values before few."""
    values = {key: {outcome.job.swept[key] for outcome in outcomes} for key in outcomes[0].job.swept}
    ranked = sorted(values, key=lambda key: (key == REPEAT, not all(map(_is_number, values[key])), -len(values[key])))
    return ranked[0] if ranked else None


def _lines(done: Sequence[Outcome], axis_key: str | None, metric: str) -> dict[str, dict[str, list[float]]]:
    """Line label -> x value as typed -> values of the metric."""
    lines: dict[str, dict[str, list[float]]] = {}
    for outcome in done:
        value = outcome.summary.get("metrics", {}).get(metric)
        if value is None or not math.isfinite(value):
            continue
        swept = outcome.job.swept
        others = {key: text for key, text in swept.items() if key not in (axis_key, REPEAT)}
        label = ", ".join(f"{key}={text}" for key, text in others.items())
        x = swept[axis_key] if axis_key else str(outcome.job.number)
        lines.setdefault(label, {}).setdefault(x, []).append(float(value))
    return lines


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
