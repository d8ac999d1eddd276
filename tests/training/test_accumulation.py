"""Gradient accumulation: optimiser steps, schedules, teachers and resume count whole steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrep.methods.base import Method
from lgrep.methods.modules.teacher import Teacher
from training.ranks import quick, train_on
from training.runs import assert_equal, only_run, overrides, run, state

VIT = (
    "backbone=vit_tiny_small", "+backbone.options.depth=1", "+backbone.options.embed_dim=12",
    "+backbone.options.num_heads=2", "optimizer.eps=1e-5",
)  # fmt: skip
DOUBLE = ("trainer.precision=64-true", "duration.steps=4", "trainer.log_every_n_steps=1")


def rows(runs: Path) -> list[dict[str, str]]:
    with (only_run(runs) / "metrics.csv").open() as handle:
        return list(csv.DictReader(handle))


def plain(root: Path, runs: Path, *more: str) -> list[str]:
    """A loss that is a mean over pictures, and no BatchNorm: micro-batches then add up to the batch."""
    given = [item for item in overrides(root, runs) if not item.startswith(("method", "pairing", "augment"))]
    return [*quick(given), "method=supervised", "augment=supervised", "pairing=self", *VIT, *DOUBLE, *more]


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    """Two micro-batches of 5 anchors are one batch of 10: loss, learning rate, weights."""
    for name, size, accumulate in (("whole", 10, 1), ("parts", 5, 2)):
        more = (f"loader.batch_size={size}", f"trainer.accumulate={accumulate}")
        summary = run(plain(tmp_path / "data", tmp_path / name, *more))
        assert summary["budget"]["pictures"] == 4 * 10 and summary["epochs"] == 2
    for one, other in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        for key in ("step", "train/loss", "train/lr"):
            assert float(other[key]) == pytest.approx(float(one[key]), rel=1e-12), key
    whole, parts = (state(tmp_path / name)["state_dict"] for name in ("whole", "parts"))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-11, msg=key)


class Interruption(BaseException):
    """No handler of an Exception sees it."""


def test_resuming_inside_an_accumulation_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NNCLR's queue moves with every micro-batch; a state holds whole steps only. Pictures are broken, too."""
    arguments = (
        "method=nnclr", "method.predictor_dims=[16,8]", "method.queue_size=16", "trainer.accumulate=3",
        "duration.steps=5", "checkpoint.every_n_steps=1", "loader.max_skip_share=1",
    )  # fmt: skip
    whole = quick(overrides(tmp_path / "data", tmp_path / "whole", *arguments))
    for file in sorted((tmp_path / "data").rglob("1.png"))[:3]:
        file.write_bytes(file.read_bytes()[:50])
    assert run(whole)["finished"]
    left, begin = [7], Method.on_train_batch_start

    def hook(self: Method, value: Any, batch_idx: int) -> None:
        if left and batch_idx == left[0]:
            left.pop()
            raise Interruption
        begin(self, value, batch_idx)

    parts = quick(overrides(tmp_path / "data", tmp_path / "parts", *arguments))
    with monkeypatch.context() as patch:
        patch.setattr(Method, "on_train_batch_start", hook)
        with pytest.raises(Interruption):
            run(parts)
    assert run(parts)["finished"]
    assert_equal(state(tmp_path / "parts"), state(tmp_path / "whole"))
    for name in ("metrics.csv", "skipped.jsonl"):
        first, second = (only_run(tmp_path / runs) / name for runs in ("whole", "parts"))
        assert first.read_bytes() == second.read_bytes(), name
    steps = [json.loads(line)["step"] for line in (only_run(tmp_path / "whole") / "skipped.jsonl").open()]
    assert steps and set(steps) <= set(range(5)) and steps == sorted(steps)


@pytest.mark.parametrize("method", ["byol", "moco_v3"])
def test_teachers_step_once_per_optimiser_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    followed: list[float] = []
    follow = Teacher.follow

    def counting(self: Teacher, momentum: float, **parts: torch.nn.Module) -> None:
        followed.append(momentum)
        follow(self, momentum, **parts)

    monkeypatch.setattr(Teacher, "follow", counting)
    dims = ("method.predictor_dims=[16,8]", "trainer.accumulate=2", "duration.steps=3")
    assert run(quick(overrides(tmp_path / "data", tmp_path / "runs", f"method={method}", *dims)))["finished"]
    assert len(followed) == 3 and followed == sorted(followed)


def test_in_batch_negatives_are_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        overrides(
            tmp_path / "data", tmp_path / "runs", "trainer.accumulate=2", "duration.steps=1", "schedule.warmup_steps=0"
        )
    )
    text = " ".join(capsys.readouterr().out.split())
    assert "10 anchors = 20 pictures per step" in text and "2 micro-batches of 5 anchors" in text
    assert "trainer.accumulate=2: this loss compares" in text and "trainer.chunk_size=N" in text
    more = ("trainer.accumulate=2", "duration.steps=1", "schedule.warmup_steps=0")
    run(plain(tmp_path / "data", tmp_path / "plain", *more))
    assert "this loss compares" not in capsys.readouterr().out


@pytest.mark.ddp
def test_four_processes_equal_one(tmp_path: Path) -> None:
    """The same global micro-batch of 6 anchors (1, 2, 1 and 2 of them per process), two per step, BatchNorm included."""
    more = (*DOUBLE, "loader.batch_size=6", "trainer.accumulate=2", "optimizer.eps=1e-5")
    run(quick(overrides(tmp_path / "data", tmp_path / "1", *more)))
    train_on(4, quick(overrides(tmp_path / "data", tmp_path / "4", *more)))
    one, four = ([float(row["train/loss"]) for row in rows(tmp_path / name)] for name in ("1", "4"))
    assert len(one) == 4 and four == pytest.approx(one, rel=1e-10)
    one_state, four_state = (state(tmp_path / name)["state_dict"] for name in ("1", "4"))
    for key, value in one_state.items():
        torch.testing.assert_close(four_state[key], value, rtol=0, atol=1e-9, msg=key)
