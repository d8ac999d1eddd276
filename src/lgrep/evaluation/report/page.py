"""The report as one HTML page, and its tables as files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lgrep.errors import LgrepError
from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.contract import EvaluationSet
from lgrep.evaluation.datasets.catalogue import build_set
from lgrep.evaluation.report import tables
from lgrep.evaluation.report.collect import Collected, collect, read_records
from lgrep.evaluation.report.details import Predicted, predicted
from lgrep.evaluation.report.geometry import layout, linear_cka, map_picture, matrix_picture, neighbour_sheet, sampled
from lgrep.evaluation.report.summaries import cost_blocks, suite_blocks
from lgrep.evaluation.subjects import load_models
from lgrep.evaluation.tasks import Resources, make_task
from lgrep.files import write_text
from lgrep.html_page import document, png, rows_of, text, write_document

SHOWN_CLASSES = 20  # of a table; the page says how many there are


def write_report(
    folders: Sequence[str | Path], out: str | Path, features: bool = True, together: bool = True, seed: int = 0
) -> Path:
    """Write `report.html` (self-contained), `table.md` and `table.tex`.

    Args:
        folders: of `evaluate.py`, with `records/`.
        out: folder of the report.
        features: also the parts that need features (CKA, map, nearest neighbours): from the feature cache, or one pass.
        together: runs whose configurations differ by the seed alone are one row.
        seed: of samples and of the map.

    Returns:
        The page.

    Raises:
        DataError: no records, or a damaged one.
    """
    found = collect(read_records(folders), together)
    page = Path(out) / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    blocks = ["<h1>Evaluation</h1>", tables.html(found, page)]
    blocks += [f"<p>{text(line)}</p>" for line in found.notes]
    blocks += [*suite_blocks(found.records), *cost_blocks(found)]
    blocks += [block for entry in predicted(found.records) for block in _predictions(entry)]
    if features:
        blocks += list(_features(found, seed))
    blocks += list(_provenance(found))
    write_document(page, document("evaluation", blocks))
    write_text(page.parent / "table.md", tables.markdown(found))
    write_text(page.parent / "table.tex", tables.latex(found))
    return page


def _predictions(found: Predicted) -> Iterator[str]:
    yield f"<h2>{text(found.model)}: {text(found.dataset)}, {text(found.evaluation)}</h2>"
    classes = found.per_class()
    rows = [(text(name), f"{count:,}", f"{100 * right:.1f} %") for name, count, right in classes[:SHOWN_CLASSES]]
    yield f"<h3>Classes, the hardest of {len(classes)} first</h3>" + rows_of(rows, ("class", "pictures", "right"))
    mistakes = [(text(true), text(other), str(count)) for true, other, count in found.confused()]
    if mistakes:
        yield "<h3>Most frequent mistakes</h3>" + rows_of(mistakes, ("class", "taken for", "times"))
    matrix = found.confusion().double().numpy()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [found.name(label) for label in range(len(matrix))]
    yield png(matrix_picture(shares, names, "share of each class (row) by prediction"), "confusion")


def _features(found: Collected, seed: int) -> Iterator[str]:
    runs = list(dict.fromkeys(record["model"]["name"] for record in found.records))
    for name, dataset in _sets(found.records).items():
        part = dataset.parts()["test"]
        rows = sampled(len(part.labels), seed)
        known: dict[str, Tensor] = {}
        yield f"<h2>Features on {text(name)}</h2>"
        for run in runs:
            try:
                model = load_models([run], baselines=False)[0]
                task = make_task(model.on(dataset), dataset, Resources(cache=FeatureCache()), seed)
                known[run] = task.features_of("test")
            except LgrepError as error:
                yield f"<p>{text(run)}: {text(error)}</p>"
                continue
            yield f"<h3>{text(run)}</h3>"
            if part.labels.ndim == 1:
                points, method = layout(known[run][rows], seed)
                yield png(map_picture(points, part.labels[rows], f"{method} of {len(rows):,} test pictures"), "map")
            yield png(neighbour_sheet(part, known[run], seed=seed), "nearest neighbours")
        if len(known) > 1:
            matrix = np.array([[linear_cka(a[rows], b[rows]) for b in known.values()] for a in known.values()])
            yield "<h3>Similarity of models (linear CKA)</h3>"
            yield png(matrix_picture(matrix, [run[-30:] for run in known], "linear CKA"), "CKA")


def _sets(records: Sequence[dict[str, Any]]) -> dict[str, EvaluationSet]:
    """The data sets that are here and unchanged."""
    found: dict[str, EvaluationSet] = {}
    for record in records:
        name = record["dataset"]
        if name not in found:
            try:
                dataset = build_set(name, **record.get("dataset_settings") or {})
            except (LgrepError, TypeError):
                continue
            if dataset.data_hash == record["data_hash"] and "test" in dataset.parts():
                found[name] = dataset
    return found


def _provenance(found: Collected) -> Iterator[str]:
    yield "<h2>Records</h2>"
    rows = []
    for record in found.records:
        settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())[:300]
        rows.append((text(record["file"].name), text(record["model"]["name"]), text(record["dataset"]),
                     text(record.get("evaluation", record["evaluator"])), text(settings), text(record["weights_hash"]),
                     text(record["data_hash"]), str(record["seed"]), text(record.get("commit") or "")))  # fmt: skip
    yield rows_of(rows, ("file", "model", "data", "evaluation", "settings", "weights", "data hash", "seed", "commit"))
