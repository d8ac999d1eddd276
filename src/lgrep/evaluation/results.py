"""Records of one evaluation as a table and a CSV file; what was not measured as lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable

from lgrep.files import write_text

CSV_COLUMNS = ("model", "dataset", "evaluator", "metric", "value", "weights_hash", "data_hash", "seed", "protocol")
CAPTION = "all metrics, settings and predictions are in the records"
WIDEST = 8  # columns of numbers that a terminal of 80 letters shows
Column = tuple[str, str, str]  # data set, name of the evaluator's node, metric


def results_table(records: Sequence[dict[str, Any]]) -> RichTable:
    """Models as rows and the headline metrics of every evaluator as columns; the other way where these are many."""
    columns: list[Column] = []
    cells: dict[str, dict[Column, float]] = {}
    chance: dict[Column, float] = {}
    for record in records:
        for metric in record["headline"]:
            column = (record["dataset"], record["evaluation"], metric)
            columns += [column] if column not in columns else []
            cells.setdefault(record["model"]["name"], {})[column] = record["values"][metric]
            if f"chance_{metric}" in record["values"]:
                chance[column] = record["values"][f"chance_{metric}"]
    rows = [*cells.items(), *([("chance", chance)] if chance else [])]
    return _long(rows, columns) if len(columns) > WIDEST else _wide(rows, columns, len(cells))


def _wide(rows: Sequence[tuple[str, dict[Column, float]]], columns: Sequence[Column], models: int) -> RichTable:
    table = RichTable(caption=CAPTION, box=box.SIMPLE_HEAD)
    table.add_column("model", overflow="fold", min_width=16)
    for column in columns:
        table.add_column(f"{column[0]}\n{_heading(column, columns)}", justify="right")
    for number, (name, row) in enumerate(rows):
        if number == models:
            table.add_section()
        missing = "-" if number < models else ""
        table.add_row(name, *(f"{row[column]:.3f}" if column in row else missing for column in columns))
    return table


def _long(rows: Sequence[tuple[str, dict[Column, float]]], columns: Sequence[Column]) -> RichTable:
    table = RichTable(caption=CAPTION, box=box.SIMPLE_HEAD)
    table.add_column("data set")
    table.add_column("metric")
    for name, _ in rows:
        table.add_column(name, justify="right", overflow="fold", min_width=6)
    before = None
    for column in sorted(columns, key=lambda column: [other[0] for other in columns].index(column[0])):
        if before not in (None, column[0]):
            table.add_section()
        values = (f"{row[column]:.3f}" if column in row else "-" for _, row in rows)
        table.add_row(column[0] if column[0] != before else "", _heading(column, columns), *values)
        before = column[0]
    return table


def _heading(column: Column, columns: Sequence[Column]) -> str:
    """The metric, with its evaluator where another one has a metric of this name."""
    dataset, evaluation, metric = column
    same = [other for other in columns if (other[0], other[2]) == (dataset, metric)]
    return (f"{evaluation} " if len(same) > 1 else "") + metric.replace("_per_class", " per class")


def write_csv(records: Sequence[dict[str, Any]], path: Path) -> None:
    """One row per model, data set, evaluator and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records:
        identity = (record["model"]["name"], record["dataset"], record["evaluator"])
        about = [record[column] for column in CSV_COLUMNS[-4:]]
        for metric, value in record["values"].items():
            writer.writerow((*identity, metric, f"{value:.6f}", *about))
    write_text(path, text.getvalue())


def lines_of(entries: Sequence[Mapping[str, str]], models: int) -> list[str]:
    """One line for each evaluator, data set and reason, with the models unless it is all of them.

    >>> lines_of([{"evaluation": "zeroshot", "dataset": "digits", "model": "pixels", "reason": "no text"}], models=2)
    ['zeroshot on digits with pixels: no text']
    """
    grouped: dict[tuple[str, ...], list[str]] = {}
    for entry in entries:
        key = (entry.get("evaluation", ""), entry["dataset"], entry["reason"])
        grouped.setdefault(key, []).append(entry.get("model", ""))
    lines = []
    for (evaluation, dataset, reason), whose in grouped.items():
        if not evaluation:  # the set itself, which mostly says its name
            lines.append(reason if reason.startswith(dataset) else f"{dataset}: {reason}")
            continue
        models_named = "" if len(whose) == models else f" with {', '.join(whose)}"
        lines.append(f"{evaluation} on {dataset}{models_named}: {reason}")
    return lines
