"""The cost record: summed over all starts, with the synthesis of the pictures, and found by evaluations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrep.callbacks import cost as ledger
from lgrep.cost import Start, cost_at, cost_of_run, read_starts, synthesis_of, write_starts
from lgrep.evaluation.cost_plot import CostPoint, cost_points, mark_best, plot_cost
from lgrep.evaluation.subjects import load_models
from lgrep.methods.base import Method
from training.ranks import quick, train_on
from training.runs import only_run, overrides, run


class Interruption(BaseException):
    """Ends a run like a signal would; no handler of an Exception sees it."""


class Clock:
    """Stands still but for ten seconds in every step."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_run_that_was_interrupted_costs_the_sum_of_its_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in step 8, resumed after step 6: 13 steps of weights, 15 of work, ten seconds each."""
    clock, stop_at = Clock(), [8]
    step = Method.training_step

    def timed(self: Method, batch: Any, batch_idx: int) -> Any:
        if stop_at and self.global_step == stop_at[0]:
            stop_at.clear()
            raise Interruption
        clock.now += 10
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ledger, "time", clock)
    monkeypatch.setattr(Method, "training_step", timed)
    views = "augment.views=[{picture: 0, transform: strong, size: 32, count: 2}, {picture: 1, transform: strong, size: 32, count: 1}]"
    arguments = quick(overrides(tmp_path / "data", tmp_path / "runs", views))
    with pytest.raises(Interruption):
        run(arguments)
    folder = only_run(tmp_path / "runs")
    assert read_starts(folder) == [Start(0, 8, 80.0, 1, "cpu")]
    summary = run(arguments)
    cost, budget = summary["cost"], summary["budget"]
    assert read_starts(folder) == [Start(0, 8, 80.0, 1, "cpu"), Start(6, 13, 70.0, 1, "cpu")]
    assert cost["starts"] == 2 and cost["steps"] == 15 and budget["steps"] == 13
    assert cost["wall_seconds"] == 150 and cost["devices"] == ["cpu"] and cost["processes"] == 1
    assert cost["cpu_process_hours"] == pytest.approx(150 / 3600, abs=1e-6) and cost["accelerator_hours"] == 0
    assert cost["pictures_seen"] == 15 * 5 * 3 and cost["pictures_decoded"] == 15 * 5 * 2
    assert cost["flops"] * 13 == budget["flops"] * 15 > 0
    assert cost["synthesis"] == [] and cost["total"]["cpu_process_hours"] == cost["cpu_process_hours"]
    assert cost["bytes"] >= sum(path.stat().st_size for path in (folder / "checkpoints").glob("step-*"))
    for name in (folder, folder / "checkpoints" / "last.ckpt"):
        model = load_models([str(name)], baselines=False)[0]
        assert model.subject.budget == {**budget, "cost": json.loads((folder / "summary.json").read_text())["cost"]}


@pytest.mark.ddp
def test_two_processes_hold_two_devices(tmp_path: Path) -> None:
    arguments = quick(overrides(tmp_path / "data", tmp_path / "runs", "duration.steps=3", "schedule.warmup_steps=1"))
    summaries = train_on(2, arguments)
    cost = summaries[0]["cost"]
    assert "cost" not in summaries[1], "the second process must not read what the first one may still be writing"
    assert cost["processes"] == 2 and cost["steps"] == 3 and cost["starts"] == 1
    assert cost["cpu_process_hours"] == pytest.approx(2 * cost["wall_seconds"] / 3600, abs=1e-6)


def generated(root: Path, hours: float, scale: float = 2.0, content_hash: str = "a") -> Path:
    root.mkdir(parents=True)
    made = {"settings": {"guidance_scale": scale, "steps": 50}, "seed": 0}
    (root / "set.json").write_text(json.dumps({"generation": made}))
    about = {"name": "set", "identity": "0a", "pictures": {"drawn": 40}, "accelerator_hours": hours,
             "cpu_process_hours": 0.5, "bytes": 1000, "content_hash": content_hash}  # fmt: skip
    (root / "generation.json").write_text(json.dumps(about))
    return root


def test_synthesis_is_part_of_the_total(tmp_path: Path) -> None:
    """Sets are found in unions and under selections, each counted once; a damaged description costs nothing known."""
    first = generated(tmp_path / "sets" / "scale2", 3.0)
    generated(tmp_path / "sets" / "scale8", 5.0, scale=8.0, content_hash="b")
    (generated(tmp_path / "damaged", 7.0) / "generation.json").write_text("{")
    one = {"_target_": "x", "root": str(tmp_path / "sets"), "guidance_scale": 8.0, "steps": None, "seed": 0}
    assert [made["accelerator_hours"] for made in synthesis_of(one)] == [5.0]
    parts = {"real": {"root": str(tmp_path)}, "again": {"source": {"root": str(first)}}, "a": {"root": str(first)},
             "gone": {"root": str(tmp_path / "gone")}, "damaged": {"root": str(tmp_path / "damaged")}}  # fmt: skip
    both = {"parts": {**parts, "b": one}}
    assert sorted(made["accelerator_hours"] for made in synthesis_of(both)) == [3.0, 5.0]
    write_starts(
        tmp_path, [Start(0, 10, 3600.0, 8, "H100"), Start(8, 20, 1800.0, 4, "H100"), Start(20, 21, 36.0, 1, "cpu")]
    )
    cost = cost_of_run(tmp_path, {"pictures": 60, "flops": 7}, (6, 6), one)
    assert cost["accelerator_hours"] == 8 + 2 and cost["cpu_process_hours"] == 0.01
    assert cost["total"]["accelerator_hours"] == 15 and cost["total"]["cpu_process_hours"] == 0.51
    assert cost["total"]["bytes"] == cost["bytes"] + 1000
    assert cost["steps"] == 23 and cost["pictures_seen"] == cost["pictures_decoded"] == 23 * 60 and cost["flops"] == 161


def test_files_that_disappear_meanwhile_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step-00000004.ckpt").write_bytes(bytes(100))
    os.link(tmp_path / "step-00000004.ckpt", tmp_path / "last.ckpt")
    walked = [*os.walk(tmp_path), (str(tmp_path), [], ["step-00000004.partial"])]
    monkeypatch.setattr(os, "walk", lambda folder: walked)
    assert cost_of_run(tmp_path, {"pictures": 6, "flops": 7}, (6, 6))["bytes"] == 100


def test_a_damaged_ledger_or_summary_stops_nothing(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"starts": [{"first_step": 1}]}', '{"starts": 3}'):
        (tmp_path / "cost.json").write_text(text)
        assert read_starts(tmp_path) == []
        (tmp_path / "summary.json").write_text(text)
        assert cost_at(tmp_path) is None
    assert cost_of_run(tmp_path, {"pictures": 4, "flops": 1}, (2, 1))["starts"] == 0


def record(
    name: str, value: float, hours: float | None, synthesis: float = 0.0, dataset: str = "emoji"
) -> dict[str, Any]:
    total = {"accelerator_hours": hours, "cpu_process_hours": 0.0, "bytes": 5}
    cost = {"total": total, "synthesis": [{"accelerator_hours": synthesis}], "flops": 3, "pictures_seen": 9}
    budget = {"steps": 1} if hours is None else {"steps": 1, "cost": cost}
    return {"model": {"name": name}, "dataset": dataset, "values": {"top1": value}, "budget": budget}


def test_points_of_the_records_that_know_their_cost(tmp_path: Path) -> None:
    records = [
        record("late", 0.7, 9.0), record("synthetic", 0.8, 5.0, 4.0), record("cheap", 0.5, 1.0), record("public", 0.9, None),
        record("other set", 0.9, 1.0, dataset="digits"), {**record("nothing known", 0.1, 1.0), "budget": None},
    ]  # fmt: skip
    points = cost_points(records, "emoji", "top1")
    assert points == [
        CostPoint("cheap", 1.0, 0.0, 0.5, True),
        CostPoint("synthetic", 5.0, 4.0, 0.8, True),
        CostPoint("late", 9.0, 0.0, 0.7, False),
    ]
    assert {point.cost for point in cost_points(records, "emoji", "top1", "flops")} == {3.0}
    assert cost_points(records, "emoji", "top5") == []
    assert plot_cost(points, "top1", tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no record has a cost"):
        plot_cost([], "top1", tmp_path / "none.png")


def test_of_equal_points_one_is_best() -> None:
    points = [CostPoint("b", 1, 0, 0.5), CostPoint("a", 1, 0, 0.5), CostPoint("c", 2, 0, 0.5)]
    assert [(point.name, point.best) for point in mark_best(points)] == [("a", True), ("b", False), ("c", False)]


def test_gpu_hours_are_named_after_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        device = torch.device("cuda", 0)

    class Trainer:
        is_global_zero, global_step, world_size = True, 4, 2

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    callback = ledger.CostLedger(str(tmp_path))
    callback.on_train_start(Trainer(), Module())  # type: ignore[arg-type]
    assert read_starts(tmp_path)[0].device == "NVIDIA H100" and read_starts(tmp_path)[0].processes == 2
