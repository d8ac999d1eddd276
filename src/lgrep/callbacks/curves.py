"""Curves of a finished run from its metrics file."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lgrep.files import replacing

Series = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]

_PANELS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("Loss", "", lambda name: name.startswith("train/") and "loss" in name),
    ("Learning rate", "", lambda name: name.split("/")[-1].startswith("lr") or "learning_rate" in name),
    ("Probes", "accuracy", lambda name: name.startswith("probe/")),
    ("Spread", "std x sqrt(D)", lambda name: name.startswith("collapse/") and name.endswith("_std")),
    ("Effective rank", "RankMe", lambda name: name.startswith("collapse/") and name.endswith("_rankme")),
    ("Cosine of pairs", "", lambda name: name.startswith("collapse/") and "_cosine_" in name),
)
_COLOURS = ("#2f6fde", "#e07b39", "#2e9e5b", "#8a55c7", "#d64545", "#5b6470")


def read_metrics(path: Path) -> Series:
    """Columns of a wide metrics CSV: name -> (steps, values), cells without a number left out.

    Args:
        path: CSV with a column `step`; cells are empty where a metric was not logged.
    """
    points: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = _number(row.get("step"))
            if step is None:
                continue
            for name, cell in row.items():
                value = _number(cell) if isinstance(name, str) and name not in ("step", "epoch") else None
                if value is not None:
                    points.setdefault(name, {})[int(step)] = value
    return {
        name: (np.array(sorted(found)), np.array([found[step] for step in sorted(found)]))
        for name, found in points.items()
    }


def draw_curves(series: Series, path: Path, title: str = "") -> None:
    """Write a PNG with one panel per kind of metric that the run logged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(name, unit, lines) for name, unit, match in _PANELS if (lines := _pick(series, match))]
    columns = min(3, max(1, len(panels)))
    lines_of_panels = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.6 * columns, 3.3 * lines_of_panels + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title or "Training curves", fontsize=12, fontweight="bold", parse_math=False)
    axes = figure.subplots(lines_of_panels, columns, squeeze=False).flatten()
    for axis, (name, unit, lines) in zip(axes, panels, strict=False):
        _draw_panel(axis, name, unit, lines)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if not panels:
        axes[0].text(0.5, 0.5, "no metrics were logged", ha="center", va="center", color="#6b7280")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _pick(series: Series, match: Callable[[str], bool]) -> Series:
    picked = {name: points for name, points in sorted(series.items()) if match(name)}
    for name in picked:
        reference = series.get(f"{name}_isotropic")
        if reference is not None:  # features of different size share a panel as shares of 1 / sqrt(D)
            steps, values = picked[name]
            picked[name] = (steps, values / reference[1][0])
    return picked


def _draw_panel(axis: Any, name: str, unit: str, lines: Series) -> None:
    short = _short_names(lines)
    for colour, (key, (steps, values)) in zip(_repeat(_COLOURS), lines.items(), strict=False):
        many = len(steps) > 60
        smooth = name == "Loss" and many
        axis.plot(steps, values, color=colour, alpha=0.25 if smooth else 1, linewidth=1.4,
                  marker=None if many else "o", markersize=3, label=None if smooth else short[key])  # fmt: skip
        if smooth:
            axis.plot(steps, running_mean(values, len(values) // 25), color=colour, linewidth=1.6, label=short[key])
        if name == "Probes":
            axis.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(5, -3), textcoords="offset points",
                          fontsize=8, color=colour, annotation_clip=False)  # fmt: skip
    axis.set_title(name, fontsize=10, loc="left")
    axis.set_xlabel("step", fontsize=8)
    axis.set_ylabel(unit, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12 if name == "Probes" else 0.05, y=0.12)
    if len(lines) > 1 or next(iter(short.values())) != name.lower():
        # below the panel: four lines leave no empty corner inside it
        axis.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)


def running_mean(values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Mean over a centred window of `2 * width + 1` values, cut at the ends.

    >>> running_mean(np.array([0.0, 3.0, 6.0]), 1).tolist()
    [1.5, 3.0, 4.5]
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - width, 0)
    high = np.minimum(np.arange(len(values)) + width + 1, len(values))
    means: np.ndarray[Any, Any] = (total[high] - total[low]) / (high - low)
    return means


def _short_names(names: Iterable[str]) -> dict[str, str]:
    return {
        name: name.split("/", 1)[-1].removesuffix("_std").removesuffix("_rankme").replace("_", " ") for name in names
    }


def _repeat(colours: Sequence[str]) -> Iterable[str]:
    while True:
        yield from colours


def _number(cell: object) -> float | None:
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
