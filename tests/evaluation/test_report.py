"""The report over records: intervals, confusion, CKA, and a page that needs nothing else."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy import stats
from sklearn.metrics import confusion_matrix

from lgrep.errors import DataError
from lgrep.evaluation.report import geometry
from lgrep.evaluation.report.collect import Cell, collect, read_records
from lgrep.evaluation.report.details import Predicted
from lgrep.evaluation.report.geometry import linear_cka
from lgrep.evaluation.report.page import write_report
from lgrep.evaluation.report.tables import latex, markdown
from lgrep.evaluation.run import evaluate


def record(model: str, value: float, seed: int = 0, dataset: str = "digits", **more: Any) -> dict[str, Any]:
    return {
        "dataset": dataset, "evaluator": "knn", "evaluation": "knn", "values": {"knn": value, "chance_knn": 0.1},
        "settings": {"k": 20}, "model": {"name": model}, "weights_hash": f"{model}{seed}", "data_hash": "d",
        "seed": seed, "headline": ["knn"], "notes": ["a <b>footnote</b>"], "time": f"2026-01-01T00:00:0{seed}",
        "predictions": None, **more,
    }  # fmt: skip


def written(folder: Path, records: list[dict[str, Any]]) -> Path:
    (folder / "records").mkdir(parents=True)
    for number, entry in enumerate(records):
        (folder / "records" / f"{number}.json").write_text(json.dumps(entry))
    return folder


def test_interval_is_students() -> None:
    values = [0.61, 0.64, 0.66]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    cell = Cell(values)
    assert cell.interval == pytest.approx((high - low) / 2) and cell.mean == pytest.approx(np.mean(values))
    assert Cell([0.5]).interval is None


def test_runs_that_differ_by_the_seed_alone_are_one_row(tmp_path: Path) -> None:
    runs = []
    for seed, lr in ((0, 0.1), (1, 0.1), (0, 0.2)):
        run = tmp_path / "runs" / "simclr" / f"s{seed}-{lr}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"name: simclr\nseed: {seed}\noptimizer: {{base_lr: {lr}}}\n")
        runs.append(str(run))
    records = [
        record(run, value, number) for number, (run, value) in enumerate(zip(runs, (0.5, 0.6, 0.9), strict=True))
    ]
    found = collect(read_records([written(tmp_path / "out", records)]))
    assert [len(own) for own in found.models.values()] == [2, 1]
    first = found.cells[next(iter(found.models)), found.columns[0]]
    assert first.values == [0.5, 0.6] and len(collect(found.records, together=False).models) == 3
    text = markdown(found)
    assert "| simclr" in text and "55.0 ± 63.5" in text and "90.0 |" in text
    assert r"\textbf{90.0}" in latex(found) and r"base\_lr" not in latex(found)
    both = [record(f"{run}:both", 0.7, 3 + number) for number, run in enumerate(runs[:2])]
    beside = collect(read_records([written(tmp_path / "beside", records + both)])).models
    assert [len(own) for own in beside.values()] == [2, 1, 2] and list(beside)[2] == f"{list(beside)[0]}:both"


def test_other_protocols_in_a_column_are_said(tmp_path: Path) -> None:
    records = [record("a", 0.5), record("b", 0.6, settings={"k": 5})]
    notes = collect(read_records([written(tmp_path / "out", records)])).notes
    assert any("2 different settings" in note for note in notes)


def test_damaged_and_missing_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no evaluation records"):
        read_records([tmp_path])
    folder = written(tmp_path / "out", [record("a", 0.5)])
    (folder / "records" / "1.json").write_text("{")
    with pytest.raises(DataError, match=r"1\.json is damaged"):
        read_records([folder])


def test_confusion_equals_scikit_learns() -> None:
    draw = torch.Generator().manual_seed(0)
    labels, predictions = (torch.randint(0, 4, (50,), generator=draw) for _ in range(2))
    found = Predicted("m", "d", "knn", labels, predictions, ("a", "b", "c", "d"))
    matrix = confusion_matrix(labels, predictions)
    assert np.array_equal(found.confusion().numpy(), matrix)
    hardest = found.per_class()[0]
    rates = np.diag(matrix) / matrix.sum(1)
    assert hardest[2] == pytest.approx(rates.min()) and hardest[0] == "abcd"[int(rates.argmin())]
    true, other, count = found.confused(1)[0]
    assert count == (matrix - np.diag(np.diag(matrix))).max() == matrix["abcd".index(true), "abcd".index(other)]


def test_cka_is_one_for_rotations_and_small_for_noise() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(500, 6, generator=draw, dtype=torch.float64)
    turned = features @ torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64)).Q
    assert linear_cka(features, turned) == pytest.approx(1.0)
    assert linear_cka(features, torch.randn(500, 6, generator=draw)) < 0.1
    # the definition by Gram matrices
    other = torch.randn(500, 4, generator=draw, dtype=torch.float64) + features[:, :4]
    centre = torch.eye(500, dtype=torch.float64) - 1 / 500
    a, b = (centre @ x @ x.T @ centre for x in (features, other))
    assert linear_cka(features, other) == pytest.approx(float((a * b).sum() / (a.norm() * b.norm())))


def test_a_page_of_real_records_needs_nothing_else(tmp_path: Path) -> None:
    evaluate(["pixels"], ["digits"], out=tmp_path / "out", baselines=False, evaluators=["knn"],
             console=Console(file=io.StringIO()))  # fmt: skip
    path = write_report([tmp_path / "out"], tmp_path / "report")
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page and not re.search(r'(src|href)="(https?:|//)', page)
    links = re.findall(r'href="([^"]+)"', page)
    assert links and all((path.parent / link).is_file() for link in links)
    assert page.count("data:image/png") == 3 and "Most frequent mistakes" in page and "Features on digits" in page
    assert "pixels" in (path.parent / "table.md").read_text() and "toprule" in (path.parent / "table.tex").read_text()
    assert Image.open(io.BytesIO(_first_picture(page))).size[0] > 100


def test_suites_and_costs_are_shown(tmp_path: Path) -> None:
    def cost(hours: float) -> dict[str, Any]:
        total = {"accelerator_hours": 0.0, "cpu_process_hours": hours}
        return {"cost": {"flops": 1, "synthesis": [], "total": total, **total}}

    records = [record(model, value, budget=cost(hours)) for model, value, hours in (("a", 0.5, 2.0), ("b", 0.7, 3.0))]
    records.append(record("pixels", 0.9, budget=None))
    for name, share in (("dtd", 0.5), ("pets", 0.8)):
        values = {"transfer": share, "transfer_log_odds": float(np.log(share / (1 - share)))}
        more = {"evaluator": "transfer", "evaluation": "transfer", "values": values, "headline": ["transfer"]}
        records.append(record("pixels", 0.0, dataset=name, **more))
    page = write_report([written(tmp_path / "out", records)], tmp_path / "report", features=False).read_text("utf-8")
    assert f"<td>65.0</td><td>{np.log(4) / 2:.3f}</td><td>dtd, pets</td>" in page
    plotted = page.split("Accuracy against cost")[1].split("<h2>")[0]
    assert "CPU process hours" in plotted and "<td>3</td>" in plotted and "pixels" not in plotted
    assert plotted.count("data:image/png") == 1
    plain = written(tmp_path / "plain", [record("a", 0.5)])
    assert "Accuracy against cost" not in write_report([plain], tmp_path / "r", features=False).read_text("utf-8")


def test_the_map_says_how_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(geometry, "_umap", lambda: None)
    points, method = geometry.layout(features)
    assert points.shape == (40, 2) and method == "t-SNE"

    class Reducer:
        UMAP = staticmethod(lambda **_: Reducer)
        fit_transform = staticmethod(lambda values: values[:, :2])

    monkeypatch.setattr(geometry, "_umap", lambda: Reducer)
    points, method = geometry.layout(features)
    assert points.shape == (40, 2) and method == "UMAP"
    assert geometry.layout(features[:5])[1] == "t-SNE"


def test_text_from_records_is_escaped(tmp_path: Path) -> None:
    folder = written(tmp_path / "out", [record("<script>alert(1)</script>", 0.5, dataset="gone")])
    page = write_report([folder], tmp_path / "report", features=False).read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>footnote" not in page


def _first_picture(page: str) -> bytes:
    import base64

    found = re.search(r'data:image/png;base64,([^"]+)"', page)
    assert found is not None
    return base64.b64decode(found[1])
