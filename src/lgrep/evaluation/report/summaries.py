"""What a report says over several data sets: transfer suites, and what the numbers cost."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lgrep.evaluation.cost_plot import UNITS, CostPoint, Unit, cost_points, draw_cost
from lgrep.evaluation.log_odds import suite_scores
from lgrep.evaluation.report.collect import Collected
from lgrep.html_page import png, rows_of, text

PLOTS = 12  # of accuracy against cost; the page says how many more there would be


def suite_blocks(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The transfer suite: mean accuracy and mean log odds of each model, and the data sets that they cover."""
    scores = suite_scores(records)
    if not scores:
        return
    levels = sorted({level for score in scores.values() for level in score.cog})
    rows = [
        (
            text(model),
            f"{100 * score.mean:.1f}",
            f"{score.mean_log_odds:.3f}",
            *(f"{100 * score.cog[level]:.1f}" if level in score.cog else "-" for level in levels),
            text(", ".join(score.datasets)),
        )
        for model, score in scores.items()
    ]
    yield "<h2>Transfer suite</h2>"
    yield rows_of(rows, ("model", "mean accuracy", "mean log odds", *map(text, levels), "data sets"))
    if len({score.datasets for score in scores.values()}) > 1:
        yield "<p>The means cover different data sets and do not compare.</p>"


def cost_blocks(found: Collected) -> Iterator[str]:
    """Each headline metric against what its models cost, for models whose cost is known (runs of this project)."""
    plots = [(key, unit, points) for key in found.columns for unit, points in _priced(found.records, *key)]
    if not plots:
        return
    yield "<h2>Accuracy against cost</h2>"
    if len(plots) > PLOTS:
        yield f"<p>The first {PLOTS} of {len(plots)} metrics.</p>"
    for (dataset, evaluation, metric), unit, points in plots[:PLOTS]:
        buffer = io.BytesIO()
        draw_cost(points, f"{dataset} {metric}", unit).savefig(buffer, format="png", dpi=110)
        rows = [
            (text(point.name), f"{point.cost:,.4g}", f"{point.synthesis:,.4g}", f"{point.value:.4f}")
            for point in points
        ]
        yield f"<h3>{text(dataset)}, {text(evaluation)}, {text(metric)}</h3>"
        yield png(buffer.getvalue(), f"{metric} against cost")
        yield rows_of(rows, ("model", text(UNITS[unit]), "of it synthesis", text(metric)))


def _priced(
    records: Sequence[Mapping[str, Any]], dataset: str, evaluation: str, metric: str
) -> Iterator[tuple[Unit, list[CostPoint]]]:
    """The points in the unit that the models used: accelerator hours, on CPUs only process hours; none without costs."""
    own = [record for record in records if record.get("evaluation", record["evaluator"]) == evaluation]
    units: tuple[Unit, ...] = ("accelerator_hours", "cpu_process_hours")
    for unit in units:
        points = cost_points(own, dataset, metric, unit)
        if any(point.cost > 0 for point in points):
            yield unit, points
            return
