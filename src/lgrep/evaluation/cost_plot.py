"""Accuracy against total cost: what a model's numbers took, synthesis of its pictures included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lgrep.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {
    "accelerator_hours": "accelerator hours, synthesis included",
    "cpu_process_hours": "CPU process hours, synthesis included",
    "flops": "FLOPs of training",
    "pictures_seen": "pictures seen",
    "bytes": "bytes stored, synthesis included",
}
Unit = Literal["accelerator_hours", "cpu_process_hours", "flops", "pictures_seen", "bytes"]


@dataclass(frozen=True)
class CostPoint:
    """One model on one plot.

    Attributes:
        name: of the model.
        cost: in the unit of the plot.
        synthesis: part of `cost` that making its pictures took.
        value: what was measured, 0 to 1 for an accuracy.
        best: nothing that costs as much or less is as good.
    """

    name: str
    cost: float
    synthesis: float
    value: float
    best: bool = False


def cost_points(
    records: Iterable[Mapping[str, Any]], dataset: str, metric: str, unit: Unit = "accelerator_hours"
) -> list[CostPoint]:
    """Points of the records that know their cost, cheapest first.

    Args:
        records: of `evaluate.py` (`lgrep.records.make_record`): `budget.cost` is the `cost` section of the run's summary.
        dataset: which of their data sets.
        metric: which of their values.
        unit: which cost.

    Returns:
        One point per record; models without a known cost (public weights, unfinished runs) have none.
    """
    points = []
    for record in records:
        cost = (record.get("budget") or {}).get("cost")
        value = record["values"].get(metric)
        if cost and record["dataset"] == dataset and value is not None:
            total = cost["total"].get(unit, cost.get(unit))
            made = sum(entry.get(unit, 0) for entry in cost["synthesis"])
            points.append(CostPoint(str(record["model"]["name"]), float(total), float(made), float(value)))
    return mark_best(points)


def mark_best(points: Sequence[CostPoint]) -> list[CostPoint]:
    """The points by rising cost, those that no other point beats (Pareto front) marked."""
    marked: list[CostPoint] = []
    highest = float("-inf")
    for point in sorted(points, key=lambda point: (point.cost, -point.value, point.name)):
        best = point.value > highest
        highest = max(highest, point.value)
        marked.append(CostPoint(point.name, point.cost, point.synthesis, point.value, best))
    return marked


def plot_cost(points: Sequence[CostPoint], metric: str, path: str | Path, unit: Unit = "accelerator_hours") -> Path:
    """Write `draw_cost` as a PNG.

    Returns:
        `path`.

    Raises:
        ValueError: no points.
    """
    path = Path(path)
    with replacing(path) as partial:
        draw_cost(points, metric, unit).savefig(partial, dpi=150, format="png")
    return path


def draw_cost(points: Sequence[CostPoint], metric: str, unit: Unit = "accelerator_hours") -> Figure:
    """Accuracy against cost; a line from each point to the left shows what synthesis cost of it.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("no record has a cost: evaluate finished runs, whose summary.json holds it")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    front = [point for point in points if point.best]
    axes.step([p.cost for p in front], [p.value for p in front], where="post", color="0.7", linewidth=1, zorder=1)
    for point in points:
        if point.synthesis:
            axes.plot([point.cost - point.synthesis, point.cost], [point.value] * 2, color="tab:orange", zorder=2)
        axes.scatter(point.cost, point.value, s=24, color="tab:blue" if point.best else "0.5", zorder=3)
        axes.annotate(point.name, (point.cost, point.value), xytext=(4, 4), textcoords="offset points", fontsize=8)
    if all(point.cost > 0 for point in points) and max(p.cost for p in points) > 20 * min(p.cost for p in points):
        axes.set_xscale("log")
    axes.set_xlabel(UNITS[unit])
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    return figure
