from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lgrep import records
from lgrep.records import compact, git_commit, make_record, read_predictions, weights_hash, write_record


def _record(**changes: object) -> dict[str, object]:
    settings = {"k": 20}
    arguments: dict[str, object] = {"model": "timm/a b", "weights_hash": "ab", "data_hash": "cd", "seed": 1, **changes}
    return make_record("emoji", "knn", settings, {"knn": 0.5}, **arguments)  # type: ignore[arg-type]


def test_round_trip_with_predictions(tmp_path: Path) -> None:
    predictions = {
        "knn": torch.tensor([3, 0, 255]),
        "rank": np.array([1, 300]),
        "none": torch.zeros(0, dtype=torch.long),
    }
    path = write_record(_record(predictions=predictions, budget={"steps": 10}), tmp_path / "records")
    written = json.loads(path.read_text())
    assert written["values"] == {"knn": 0.5}
    assert written["settings"] == {"k": 20}
    assert written["budget"] == {"steps": 10}
    assert {"commit", "hardware", "versions", "time", "seed", "data_hash", "weights_hash"} <= written.keys()
    read = read_predictions(path)
    assert [read[name].dtype for name in ("knn", "rank", "none")] == [np.uint8, np.uint16, np.uint8]
    assert read["knn"].tolist() == [3, 0, 255]
    assert read["rank"].tolist() == [1, 300]
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".json", ".npz"]


def test_record_without_predictions(tmp_path: Path) -> None:
    assert read_predictions(write_record(_record(), tmp_path)) == {}


def test_a_failed_write_leaves_the_old_record(tmp_path: Path) -> None:
    path = write_record(_record(), tmp_path)
    before = path.read_text()
    with pytest.raises(ValueError):
        write_record({**_record(), "values": {"knn": float("nan")}}, tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize("values", [torch.tensor([-1, 2]), torch.tensor([0.5]), np.array(["a"])])
def test_only_non_negative_integers_are_predictions(values: object) -> None:
    with pytest.raises(ValueError, match="non-negative integers"):
        compact(values)  # type: ignore[arg-type]


def test_weights_hash_sees_every_change() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    first = weights_hash(network())
    assert first == weights_hash(network())
    assert len(first) == 16
    moved, doubled = network(), network().double()
    moved[1].running_mean[0] += 1e-6
    renamed = nn.Sequential(*network(), nn.Identity())
    assert len({first, weights_hash(moved), weights_hash(doubled)}) == 3
    assert weights_hash(renamed) == first
    assert weights_hash(nn.Sequential(nn.Identity(), *network())) != first
    weights_hash(network().to(torch.bfloat16))


def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    git_commit.cache_clear()
    assert _record()["commit"] is None
    git_commit.cache_clear()


def test_a_foreign_repository_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    module = tmp_path / "records.py"
    module.write_text("")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    monkeypatch.setattr(records, "__file__", str(module))
    git_commit.cache_clear()
    assert git_commit() is None
    git("add", "records.py")
    git("commit", "-q", "-m", "y")
    git_commit.cache_clear()
    commit = git_commit()
    assert commit is not None
    assert len(commit) == 40
    module.write_text("changed")
    git_commit.cache_clear()
    assert git_commit() == f"{commit}-dirty"
    git_commit.cache_clear()
