"""Curves over the guidance scale: table, JSON, Markdown and picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lgrep.evaluation.report.collect import Cell
from lgrep.files import replacing, write_text

Source = Literal["synthetic", "real", "untrained", "pixels"]
TITLES = {
    "knn": "kNN accuracy",
    "linear": "linear probe",
    "R@1": "unseen designer, R@1",
    "diversity": "diversity within captions",
    "caption_top1": "caption found first",
    "kernel_distance_x1000": "kernel distance x 1000",
    "caption_top5": "caption among five",
}
ACCURACIES = ("knn", "linear", "R@1")
_PANELS = tuple(TITLES)[:6]
_ONE_LINE = "0.35"  # grey of what belongs to no method
_DASHES: dict[Source, str] = {"real": "--", "untrained": ":", "pixels": "-."}


@dataclass(frozen=True)
class Point:
    """One number.

    Attributes:
        measure: key of `TITLES`.
        source: what was trained on or looked at: generated sets, real drawings; or what the numbers are held against.
        method, seed: of the run; None for numbers of a set.
        scale: guidance scale of the set; None without one.
        value: the number.
    """

    measure: str
    source: Source
    method: str | None
    scale: float | None
    seed: int | None
    value: float


class Line(NamedTuple):
    """What one curve, or one horizontal line, shows."""

    measure: str
    source: Source
    method: str | None


def cells(points: Iterable[Point]) -> dict[Line, dict[float | None, Cell]]:
    """Curve -> guidance scale -> values over seeds; scales ascend."""
    found: dict[Line, dict[float | None, Cell]] = {}
    for point in sorted(points, key=lambda point: (point.scale or 0.0, point.seed or 0)):
        line = Line(point.measure, point.source, point.method)
        found.setdefault(line, {}).setdefault(point.scale, Cell()).values.append(point.value)
    return found


def write_report(points: Sequence[Point], about: dict[str, Any], out: Path) -> None:
    """Write `curves.csv`, `curves.json` and `guidance.md`.

    Args:
        points: all numbers there are so far.
        about: settings, versions, sets, runs and failures, for the JSON file.
        out: folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in fields(Point)])
    writer.writerows(["" if value is None else value for value in astuple(point)] for point in points)
    write_text(out / "curves.csv", buffer.getvalue())
    curves = [
        {**line._asdict(), "scale": scale, "mean": cell.mean, "interval": cell.interval, "values": cell.values}
        for line, by_scale in cells(points).items()
        for scale, cell in by_scale.items()
    ]
    write_text(out / "curves.json", json.dumps({**about, "curves": curves}, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "guidance.md", markdown(points))


def markdown(points: Sequence[Point]) -> str:
    """The accuracies by method and data, then the numbers of the sets, as Markdown tables."""
    found = cells(points)
    runs = dict.fromkeys((p.source, p.method, p.scale) for p in sorted(points, key=_row) if p.measure in ACCURACIES)
    lines = [*_header(["method", "data", *(TITLES[name] for name in ACCURACIES)])]
    for source, method, scale in runs:
        row = [found.get(Line(name, source, method), {}).get(scale) for name in ACCURACIES]
        lines.append(_line([method or "", _data(source, scale), *map(_shown, row)]))
    measures = [name for name in TITLES if name not in ACCURACIES]
    sets = dict.fromkeys((p.source, p.scale) for p in sorted(points, key=_row) if p.measure in measures)
    lines += ["", *_header(["data", *(TITLES[name] for name in measures)])]
    for source, scale in sets:
        row = [found.get(Line(name, source, None), {}).get(scale) for name in measures]
        lines.append(_line([_data(source, scale), *map(_shown, row)]))
    counts = [len(cell.values) for line, by_scale in found.items() if line.method for cell in by_scale.values()]
    if max(counts, default=1) > 1:
        lines += [
            "",
            f"Mean over {min(counts)} to {max(counts)} seeds, ± half of the 95 % confidence interval (Student's t).",
        ]
    return "\n".join(lines) + "\n"


def draw(points: Sequence[Point], path: Path) -> None:
    """Write a PNG with one panel per measure: curves of generated sets, horizontal lines of what they are held against."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = cells(points)
    methods = list(dict.fromkeys(line.method for line in found if line.method))
    colours: dict[str | None, str] = {method: f"C{number}" for number, method in enumerate(methods)}
    figure = Figure(figsize=(12.6, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, measure in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for line, by_scale in found.items():
            if line.measure == measure:
                _draw_line(axis, line, by_scale, colours.get(line.method, _ONE_LINE))
        axis.set_title(TITLES[measure], fontsize=10, loc="left")
        axis.set_xlabel("guidance scale", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(fontsize=7, frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _draw_line(axis: Any, line: Line, by_scale: dict[float | None, Cell], colour: str) -> None:
    if line.source == "synthetic":
        scales = [scale for scale in by_scale if scale is not None]
        shown = [by_scale[scale] for scale in scales]
        bars = [cell.interval or 0.0 for cell in shown] if any(cell.interval for cell in shown) else None
        axis.errorbar(scales, [cell.mean for cell in shown], yerr=bars, marker="o", markersize=4, linewidth=1.4, capsize=3,
                      color=colour, label=line.method or "generated")  # fmt: skip
        return
    cell = by_scale[None]
    label = " ".join(filter(None, [line.method, line.source]))
    axis.axhline(cell.mean, linestyle=_DASHES[line.source], linewidth=1.2, color=colour, label=label)
    if cell.interval:
        axis.axhspan(cell.mean - cell.interval, cell.mean + cell.interval, color=colour, alpha=0.1, linewidth=0)


def _row(point: Point) -> tuple[int, str, int, float]:
    """Methods apart, each with its real drawings first; what they are held against comes last."""
    return (
        point.source in ("untrained", "pixels"),
        point.method or "",
        point.source == "synthetic",
        point.scale or 0.0,
    )


def _data(source: Source, scale: float | None) -> str:
    return f"generated, scale {scale:g}" if scale is not None else "real drawings" if source == "real" else source


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.mean:.3f}" + (f" ± {cell.interval:.3f}" if cell.interval is not None else "")


def _header(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield "|---|" + "---|" * (len(names) - 1)


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
