from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from lgrep.backbones.registry import build_backbone
from lgrep.errors import ConfigError
from lgrep.evaluation import run
from lgrep.evaluation.protocols import base
from lgrep.evaluation.protocols.base import Score, knn_score, register
from lgrep.evaluation.run import evaluate
from lgrep.records import read_predictions


@pytest.fixture
def shades(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of dark, red and light pictures."""
    monkeypatch.setattr(base, "_SETS", dict(base._SETS))

    @register("shades")
    class Shades:
        name, data_hash, mean, std = "shades", "d", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

        def pictures(self) -> list[Image.Image]:
            colours = [(10, 10, 10), (200, 20, 20), (240, 240, 240)]
            return [Image.new("RGB", (24, 24), tuple(c + i for c in colours[i % 3])) for i in range(12)]

        def scores(self, features: torch.Tensor) -> Iterator[Score]:
            labels = torch.arange(12) % 3
            yield knn_score((features[:6], labels[:6]), (features[6:], labels[6:]), 2, 3)


def _checkpoint(path: Path) -> str:
    torch.manual_seed(3)
    backbone = build_backbone("timm/test_resnet", in_chans=3)
    content = {
        "state_dict": {f"backbone.{key}": value for key, value in backbone.state_dict().items()},
        "lgrep": {
            "version": "0",
            "backbone": {"name": "timm/test_resnet", "options": {"in_chans": 3}},
            "image": {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3},
            "step": 7,
        },
    }
    torch.save(content, path)
    return str(path)


def test_table_records_and_csv(shades: None, tmp_path: Path) -> None:
    text = io.StringIO()
    model = _checkpoint(tmp_path / "a.ckpt")
    records = evaluate([model], ["shades"], tmp_path / "out", console=Console(file=text, width=200))
    assert [record["model"]["name"] for record in records] == [model, "random/timm/test_resnet", "pixels"]
    assert records[-1]["values"]["knn"] == 1.0
    assert records[0]["budget"] == {"steps": 7}
    assert records[1]["model"]["transform"]["size"] == 32
    assert records[1]["model"]["options"] == {"in_chans": 3}
    assert records[0]["weights_hash"] != records[1]["weights_hash"]
    for name in ("pixels", "random/timm/test_resnet", "shades"):
        assert name in text.getvalue()
    files = sorted((tmp_path / "out" / "records").glob("*.json"))
    assert len(files) == 3
    for file in files:
        assert json.loads(file.read_text())["dataset"] == "shades"
        assert len(read_predictions(file)["knn"]) == 6
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert len(rows) == 6
    assert {row["metric"] for row in rows} == {"knn", "knn_per_class"}


def test_one_pass_per_model_and_set(shades: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Any] = []
    extract = run.extract_features

    def counted(encoder: torch.nn.Module, *rest: Any, **keywords: Any) -> torch.Tensor:
        passes.append(encoder)
        return extract(encoder, *rest, **keywords)

    monkeypatch.setattr(run, "extract_features", counted)
    records = evaluate(["pixels", "pixels"], ["shades", "shades"], tmp_path, baselines=False)
    assert len(passes) == len(records) == 1


def test_wrong_requests_fail_before_any_work(shades: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits"):
        evaluate(["pixels"], ["digit"], tmp_path)
    with pytest.raises(ConfigError, match="test_resnet"):
        evaluate(["random/timm/test_resne"], ["shades"], tmp_path)
    with pytest.raises(ConfigError, match="nothing"):
        evaluate([], ["shades"], tmp_path, baselines=False)
    with pytest.raises(ConfigError, match="emoji"):
        evaluate([], ["shades"], tmp_path, options={"emoji": {}})
    assert not list(tmp_path.iterdir())
