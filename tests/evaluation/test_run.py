from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from lgrep.backbones.registry import build_backbone
from lgrep.config.compose import compose_config, parse
from lgrep.config.schema import EvaluateConfig
from lgrep.config.spec import validate_spec
from lgrep.errors import ConfigError, DataError, LgrepError
from lgrep.evaluation import tasks
from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.datasets.missing import MissingDataset
from lgrep.evaluation.evaluators import evaluator_names, evaluator_nodes
from lgrep.evaluation.run import evaluate
from lgrep.records import read_predictions

NEAREST = {"nearest": {"_target_": "evaluation.shades.Nearest"}}
Measure = Callable[..., tuple[list[dict[str, Any]], str]]


@pytest.fixture
def shades(tmp_path: Path) -> str:
    """The catalogue file of a made data set."""
    file = tmp_path / "shades.yaml"
    file.write_text("_target_: evaluation.shades.Shades\n")
    return str(file)


@pytest.fixture
def measure(shades: str, tmp_path: Path) -> Measure:
    """Evaluate pixels on the made set; gives the records and what was printed."""

    def run(models: list[str] | None = None, datasets: Any = None, **settings: Any) -> tuple[list[dict[str, Any]], str]:
        text = io.StringIO()
        settings = {"evaluators": NEAREST, "baselines": False, "console": Console(file=text, width=200), **settings}
        try:
            records = evaluate(models or ["pixels"], datasets or [shades], tmp_path / "out", **settings)
        except LgrepError as error:
            error.add_note(text.getvalue())
            raise
        return records, text.getvalue()

    return run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the passes of encoders over pictures."""
    lengths: list[int] = []
    batches = tasks.feature_batches

    def counted(encoder: Any, pictures: Any, *rest: Any, **keywords: Any) -> Any:
        lengths.append(len(pictures))
        return batches(encoder, pictures, *rest, **keywords)

    monkeypatch.setattr(tasks, "feature_batches", counted)
    return lengths


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


def test_table_records_and_csv(measure: Measure, tmp_path: Path) -> None:
    model = _checkpoint(tmp_path / "a.ckpt")
    records, text = measure([model], baselines=True)
    assert [record["model"]["name"] for record in records] == [model, "random/timm/test_resnet", "pixels"]
    assert records[-1]["values"]["top1"] == 1.0
    assert records[0]["budget"] == {"steps": 7}
    assert records[1]["model"]["transform"]["size"] == 32
    assert records[1]["model"]["options"] == {"in_chans": 3}
    assert records[1]["model"]["transform"]["mean"] == (0.5, 0.5, 0.5)
    assert records[0]["weights_hash"] != records[1]["weights_hash"]
    for name in ("pixels", "random/timm/test_resnet", "shades"):
        assert name in text
    files = sorted((tmp_path / "out" / "records").glob("*.json"))
    assert len(files) == 3
    for file in files:
        record = json.loads(file.read_text())
        assert record["dataset"] == "shades" and record["settings"] == {"k": 1} and record["notes"] == ["made"]
        assert record["dataset_settings"] == {"shift": 0}
        assert len(read_predictions(file)["top1"]) == 6
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [row["metric"] for row in rows] == ["top1"] * 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["measured"][0]["evaluation"] == "nearest"


def test_one_pass_per_model_and_pool(measure: Measure, shades: str, passes: list[int]) -> None:
    both = {**NEAREST, "draws": {"_target_": "evaluation.shades.Draws"}, "again": NEAREST["nearest"]}
    records, _ = measure(["pixels", "pixels"], [shades, shades], evaluators=both)
    assert passes == [12]
    assert len(records) == 3
    apart, _ = measure(options={"shades": {"pooled": False}})
    assert passes == [12, 6, 6]
    assert apart[0]["values"] == records[0]["values"]


def test_features_come_from_the_cache_when_nothing_changed(measure: Measure, tmp_path: Path, passes: list[int]) -> None:
    cache = FeatureCache(tmp_path / "cache")
    first, _ = measure(cache=cache)
    again, _ = measure(cache=cache)
    assert passes == [12]
    assert np.array_equal(first[0]["predictions"]["top1"], again[0]["predictions"]["top1"])
    measure(cache=cache, options={"shades": {"shift": 3}})  # other pictures, though the set claims the same hash
    measure(["random/timm/test_resnet"], cache=cache, image_size=32)
    measure(["random/timm/test_resnet"], cache=cache, image_size=48)
    measure(["random/timm/test_resnet"], cache=cache, image_size=48, seed=1)
    assert passes == [12] * 5
    measure(cache=FeatureCache(tmp_path / "cache", dtype="float16"))
    assert passes == [12] * 6


def test_other_settings_keep_their_own_records(measure: Measure, tmp_path: Path) -> None:
    several = {"a": NEAREST["nearest"], "b": {**NEAREST["nearest"], "k": 3}}
    records, text = measure(evaluators=several)
    measure(evaluators=several, options={"shades": {"shift": 3}})
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) == 4
    assert [record["settings"]["k"] for record in records] == [1, 3]
    assert "a top1" in text and "b top1" in text


def test_finished_measurements_are_taken_over(measure: Measure, tmp_path: Path, passes: list[int]) -> None:
    first, table = measure(resume=True)
    again, text = measure(resume=True)
    assert passes == [12]
    assert "not repeated" in text and table.splitlines()[:4] == text.splitlines()[:4]
    assert {k: v for k, v in again[0].items() if k != "predictions"} == json.loads(
        json.dumps({k: v for k, v in first[0].items() if k != "predictions"})
    ) | {}
    assert np.array_equal(first[0]["predictions"]["top1"], again[0]["predictions"]["top1"])
    for changed in (
        {"seed": 1},
        {"evaluators": {"nearest": {**NEAREST["nearest"], "k": 2}}},
        {"options": {"shades": {"shift": 1}}},
    ):
        _, text = measure(resume=True, **changed)
        assert "not repeated" not in text
    next((tmp_path / "out" / "records").glob("*s1.json")).unlink()
    assert "not repeated" not in measure(resume=True, seed=1)[1]
    assert "not repeated" not in measure(resume=False)[1]


def test_refusals_and_failures_leave_the_other_records(measure: Measure, shades: str, tmp_path: Path) -> None:
    other = tmp_path / "plain.yaml"
    other.write_text("_target_: evaluation.shades.Shades\n")
    nodes = {
        "failing": {"_target_": "evaluation.shades.Failing"},
        "draws": {"_target_": "evaluation.shades.Draws"},
        **NEAREST,
    }
    with pytest.raises(DataError, match="a label is missing") as caught:
        measure(["pixels", "random"], [shades, str(other)], evaluators=nodes)
    text = caught.value.__notes__[0]
    assert "skipped: draws on plain: it has no colours" in text
    assert "failed: failing on shades: DataError: a label is missing" in text
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert sum(row["evaluator"] == "nearest" for row in rows) == 4
    assert sum(row["evaluator"] == "before" for row in rows) == 4
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {(entry["dataset"], entry["model"]) for entry in summary["skipped"]} == {
        ("plain", "pixels"), ("plain", "random/timm/test_resnet")
    }  # fmt: skip
    assert len(summary["failed"]) == 4


def test_missing_sets_are_skipped_unless_there_is_no_other(measure: Measure, shades: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone.yaml"
    gone.write_text("_target_: evaluation.shades.Shades\nhere: false\n")
    records, text = measure(datasets=[str(gone), shades])
    assert len(records) == 1
    assert "skipped: gone" in text or "gone: there is no folder. Type options.gone.here=true" in text
    with pytest.raises(MissingDataset, match="there is no folder"):
        measure(datasets=[str(gone)])
    assert measure(datasets=[str(gone)], options={"gone": {"here": True}})[0]


def test_broken_pictures_cost_one_pass_and_are_named(measure: Measure, passes: list[int]) -> None:
    twice = {**NEAREST, "again": NEAREST["nearest"]}
    with pytest.raises(DataError, match="2 of 12 pictures cannot be decoded: picture 0"):
        measure(evaluators=twice, options={"shades": {"broken": 2}})
    assert passes == [12]


def test_draws_follow_the_seed_and_leave_no_trace(measure: Measure) -> None:
    nodes = {"draws": {"_target_": "evaluation.shades.Draws"}}
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    values = [measure(evaluators=nodes, seed=seed)[0][0]["values"] for seed in (0, 0, 1)]
    assert values[0] == values[1]
    assert all(values[0][name] != values[2][name] for name in values[0])
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


def test_changed_weights_are_noticed(measure: Measure) -> None:
    with pytest.raises(LgrepError, match="changed while it was evaluated on shades"):
        measure(["random"], evaluators={"spoiling": {"_target_": "evaluation.shades.Spoiling"}})


def test_wrong_requests_fail_before_any_work(measure: Measure, tmp_path: Path) -> None:
    for message, arguments in (
        ("did you mean 'digits'", {"datasets": ["digit"]}),
        ("test_resnet", {"models": ["random/timm/test_resne"]}),
        ("did you mean 'emoji'", {"evaluators": ["emojis"]}),
        ("has no setting 'kk'; did you mean 'k'", {"evaluators": {"nearest": {**NEAREST["nearest"], "kk": 1}}}),
        ("options.digits: this data set is not evaluated", {"options": {"digits": {}}}),
        ("nothing to evaluate", {"evaluators": {"nearest": None}}),
        ("device=gpu cannot be used", {"device": "gpu"}),
    ):
        with pytest.raises(ConfigError, match=message):
            measure(**arguments)
    assert not (tmp_path / "out").exists()


def test_nothing_measured_is_an_error(measure: Measure, tmp_path: Path) -> None:
    other = tmp_path / "plain.yaml"
    other.write_text("_target_: evaluation.shades.Shades\n")
    with pytest.raises(ConfigError, match="nothing was measured"):
        measure(datasets=[str(other)], evaluators={"draws": {"_target_": "evaluation.shades.Draws"}})


def test_command_line() -> None:
    typed = [
        "dataset=[emoji,digits]",
        "options.emoji.test_fold=2",
        "model=pixels",
        "evaluation=[emoji]",
        "evaluation.emoji.k=5",
    ]
    config = parse(EvaluateConfig, compose_config("evaluate", typed)[0])
    assert (config.datasets, config.options) == (["emoji", "digits"], {"emoji": {"test_fold": 2}})
    assert config.evaluation == {"emoji": {"_target_": "lgrep.evaluation.evaluators.emoji.EmojiEvaluator", "k": 5}}
    assert parse(EvaluateConfig, compose_config("evaluate", ["dataset=all"])[0]).datasets == "all"
    for typed, message in (
        (["evaluation=[emojy]"], "did you mean 'emoji'"),
        (["datset=emoji"], "did you mean 'datasets'"),
        (["cache.max_gb=0"], "cache.max_gb"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(EvaluateConfig, compose_config("evaluate", typed)[0])


@pytest.mark.parametrize("name", evaluator_names())
def test_every_evaluator_of_the_project_has_a_name_and_a_place(name: str) -> None:
    nodes = evaluator_nodes(name)
    if name == "offline":  # all of them by one word, in Python as on the command line
        assert sorted(nodes) == [other for other in evaluator_names() if other != name]
        typed = compose_config("evaluate", [f"evaluation={name}"])[0]["evaluation"]
        assert {key: validate_spec(node, key) for key, node in typed.items()} == nodes
        return
    assert list(nodes) == [name]
