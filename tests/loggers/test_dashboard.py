"""The dashboard names what runs write, and the sweep file of W&B's agents what train.py takes."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import wandb_dashboard
import yaml

from lgrep.config.compose import compose_config
from lgrep.loggers.dashboard import GUIDANCE, dashboard
from lgrep.training.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]


def written() -> str:
    """Every text in the package that may name a metric; parts that are filled in are dots."""
    texts = []
    for path in (ROOT / "src/lgrep").rglob("*.py"):
        if path.name == "dashboard.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "..." for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_panels_name_what_the_package_writes() -> None:
    texts = set(written().splitlines())
    for section in dashboard():
        for panel in section.panels:
            assert panel.y or panel.pattern
            for name in panel.y:
                made = name in texts or (name.startswith("train/") and "train/..." in texts)
                assert made or "." in name, name
            if panel.pattern:
                plain = [text.replace("...", "x") for text in texts]
                assert any(re.fullmatch(panel.pattern, text) for text in plain) or panel.pattern.startswith("train/")
    values, _ = compose_config("train", ["method=stablerep", "pairing=siblings", "data=generated"])
    for name in (GUIDANCE, "optimizer.base_lr", "method.temperature"):
        section_name, key = name.split(".")
        assert key in values[section_name], name


def test_without_an_account_the_dashboard_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "d.json"
    assert wandb_dashboard.main(["--dry-run", "--out", str(out), "--objective", "eval/digits/top1"]) == 0
    content = json.loads(out.read_text())
    assert [section["name"] for section in content["sections"]] == [
        "Training", "Probes", "Throughput", "Guidance sweep", "Sweep",
    ]  # fmt: skip
    scatter = [(panel["x"], panel["y"]) for panel in content["sections"][3]["panels"]]
    assert (GUIDANCE, ["eval/digits/top1"]) in scatter
    assert wandb_dashboard.main([]) == 2
    assert "--entity TEAM" in capsys.readouterr().err


def test_the_view_that_would_be_sent(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    assert wandb_dashboard.main(["--dry-run", "--out", str(tmp_path / "d.json")]) == 0
    view = json.loads((tmp_path / "d.json").read_text())["view"]
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [len(section["panels"]) for section in sections][:5] == [3, 5, 4, 2, 2]
    loss, scatter = sections[0]["panels"][0]["config"], sections[3]["panels"][0]["config"]
    assert (loss["metrics"], loss["xAxis"]) == (["train/loss"], "trainer/global_step")
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:data.value.guidance_scale", "summary:probe/knn_top1")


def test_the_sweep_file_for_agents_fits_train() -> None:
    content = yaml.safe_load((ROOT / "docs/wandb_sweep.yaml").read_text(encoding="utf-8"))
    assert (ROOT / content["program"]).is_file()
    assert content["metric"] == {"name": "probe/knn_top1", "goal": "maximize"}
    assert content["command"][-1] == "${args_no_hyphens}"  # key=value, without the dashes that agents add
    typed = [word for word in content["command"] if not word.startswith("${")]
    for end in (0, -1):
        drawn = {
            name: about["values"][end] if "values" in about else about[("min", "max")[end]]
            for name, about in content["parameters"].items()
        }
        values, choices = compose_config("train", [*typed, *(f"{key}={value}" for key, value in drawn.items())])
        resolved = resolve(values, choices)
        assert set(resolved.config.logger) == {"wandb"}
