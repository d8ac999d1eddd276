from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from lgrep.evaluation.results import lines_of, results_table


def _record(model: str, dataset: str, evaluation: str, **values: float) -> dict[str, Any]:
    return {
        "model": {"name": model},
        "dataset": dataset,
        "evaluation": evaluation,
        "values": values,
        "headline": [name for name in values if not name.startswith("chance")],
    }


def _printed(records: list[dict[str, Any]]) -> list[list[str]]:
    text = io.StringIO()
    Console(file=text, width=80).print(results_table(records))
    return [line.split() for line in text.getvalue().splitlines() if line.strip()]


def test_few_columns_make_one_row_per_model() -> None:
    records = [
        _record("a", "emoji", "knn", knn=0.5),
        _record("a", "emoji", "emoji", **{"R@1": 0.25, "chance_R@1": 0.01}),
        _record("b", "emoji", "knn", knn=1.0),
    ]
    lines = _printed(records)
    assert ["a", "0.500", "0.250"] in lines and ["b", "1.000", "-"] in lines and ["chance", "0.010"] in lines


def test_metrics_of_the_same_name_are_told_apart() -> None:
    lines = _printed([_record("a", "emoji", "x", top1=0.5), _record("a", "emoji", "y", top1=0.75)])
    assert ["model", "x", "top1", "y", "top1"] in lines and ["a", "0.500", "0.750"] in lines


def test_many_columns_make_one_row_per_metric() -> None:
    records = [_record("model/of/one", "digits", f"e{i}", **{f"metric{i}": i / 10}) for i in range(5)]
    records += [_record("b", dataset, "knn", knn=0.5) for dataset in ("emoji", "digits", "pets", "cars", "dtd")]
    lines = _printed(records)
    assert ["metric3", "0.300", "-"] in lines
    assert ["knn", "-", "0.500"] in lines  # of digits, below its other metrics
    assert all(len(" ".join(line)) <= 80 for line in lines)


def test_reasons_are_said_once() -> None:
    entries = [
        {"evaluation": "emoji", "dataset": "digits", "model": model, "reason": "no drawings"} for model in ("a", "b")
    ]
    entries += [{"evaluation": "zeroshot", "dataset": "digits", "model": "a", "reason": "no text"}]
    entries += [{"dataset": "pets", "reason": "pets is not in DIR"}, {"dataset": "dtd", "reason": "damaged"}]
    assert lines_of(entries, models=2) == [
        "emoji on digits: no drawings",
        "zeroshot on digits with a: no text",
        "pets is not in DIR",
        "dtd: damaged",
    ]
