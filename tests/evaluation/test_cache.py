from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lgrep.errors import ConfigError, DataError
from lgrep.evaluation import cache as module
from lgrep.evaluation.cache import FeatureCache


class Maker:
    """Counts how often features are made."""

    def __init__(self, features: Tensor, batch: int = 3) -> None:
        self.features, self.batch, self.calls = features, batch, 0

    def __call__(self) -> Iterator[Tensor]:
        self.calls += 1
        yield from self.features.split(self.batch)


def _get(cache: FeatureCache, maker: Maker, key: Any = "a", **more: Any) -> Tensor:
    return cache.features({"key": key}, len(maker.features), maker, **more)


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def test_made_once_and_equal(tmp_path: Path) -> None:
    cache, maker = FeatureCache(tmp_path), Maker(torch.randn(10, 7))
    first = _get(cache, maker)
    first += 1  # the caller's own copy
    again = _get(FeatureCache(tmp_path), maker)
    assert maker.calls == 1
    assert torch.equal(again, maker.features) and again.dtype == torch.float32
    with np.errstate(all="raise"):
        assert np.array_equal(np.load(_files(tmp_path, "*.npy")[0]), maker.features.numpy())
    other = Maker(torch.randn(10, 7))
    assert torch.equal(_get(cache, other, key="b"), other.features)


def test_half_precision_rounds_the_same_whether_kept_or_not(tmp_path: Path) -> None:
    maker = Maker(torch.randn(10, 7))
    made, read = (_get(FeatureCache(tmp_path, dtype="float16"), maker) for _ in range(2))
    unkept = _get(FeatureCache(tmp_path / "small", max_gb=1e-9, dtype="float16"), maker)
    assert maker.calls == 2
    assert torch.equal(made, maker.features.half().float())
    assert torch.equal(made, read) and torch.equal(made, unkept)
    with pytest.raises(ConfigError, match=r"cache\.dtype=float32"):
        _get(FeatureCache(tmp_path, dtype="float16"), Maker(torch.full((2, 2), 1e5)), key="large")


def _cut(data: Path, entry: Path) -> None:
    os.truncate(data, data.stat().st_size - 4)


def _lengthen(data: Path, entry: Path) -> None:
    with data.open("ab") as file:
        file.write(b"\0" * 4)


def _flip(data: Path, entry: Path) -> None:
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)


def _reshape(data: Path, entry: Path) -> None:
    np.save(data, np.load(data).reshape(7, 10))


def _empty(data: Path, entry: Path) -> None:
    data.write_bytes(b"")


def _lose(data: Path, entry: Path) -> None:
    data.unlink()


def _garble(data: Path, entry: Path) -> None:
    entry.write_text('{"about": ')


def _list(data: Path, entry: Path) -> None:
    entry.write_text("[1, 2]")


def _elsewhere(data: Path, entry: Path) -> None:
    about = json.loads(entry.read_text())
    entry.write_text(json.dumps({**about, "file": "../../etc/passwd"}))


@pytest.mark.parametrize("damage", [_cut, _lengthen, _flip, _reshape, _empty, _lose, _garble, _list, _elsewhere])
def test_damage_is_noticed_and_repaired(tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    cache, maker = FeatureCache(tmp_path), Maker(torch.randn(10, 7))
    _get(cache, maker)
    damage(_files(tmp_path, "*.npy")[0], _files(tmp_path, "*.json")[0])
    for _ in range(2):
        assert torch.equal(_get(cache, maker), maker.features)
    assert maker.calls == 2


def test_a_large_file_is_told_by_a_sample_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WHOLE", 1000)
    monkeypatch.setattr(module, "_BLOCK", 64)
    monkeypatch.setattr(module, "_BLOCKS", 8)
    cache, maker = FeatureCache(tmp_path), Maker(torch.randn(50, 40))
    _get(cache, maker)
    assert torch.equal(_get(cache, maker), maker.features) and maker.calls == 1
    _flip(_files(tmp_path, "*.npy")[0], tmp_path)
    assert torch.equal(_get(cache, maker), maker.features) and maker.calls == 2


def test_features_that_disagree_are_made_again(tmp_path: Path) -> None:
    cache, old, new = FeatureCache(tmp_path), Maker(torch.zeros(4, 2)), Maker(torch.ones(4, 2))
    _get(cache, old)
    assert torch.equal(_get(cache, new, agrees=lambda kept: bool((kept == 1).all())), new.features)
    assert torch.equal(_get(cache, old, agrees=lambda kept: bool((kept == 1).all())), new.features)
    assert (old.calls, new.calls) == (1, 1)


def test_unused_for_longest_goes_first_and_what_is_open_stays(tmp_path: Path) -> None:
    size = 4 * 1000 + 128
    cache = FeatureCache(tmp_path, max_gb=3.5 * size / 1e9)
    makers = {name: Maker(torch.full((100, 10), float(place))) for place, name in enumerate("abcde")}
    opened = _get(cache, makers["a"], key="a")
    for age, name in ((40, "b"), (30, "c")):
        _get(cache, makers[name], key=name)
        description = next(path for path in _files(tmp_path, "*.json") if f'"key": "{name}"' in path.read_text())
        os.utime(description, (time.time() - age,) * 2)
    _get(cache, makers["b"], key="b")  # used again: c is now the oldest
    for name in "de":
        _get(cache, makers[name], key=name)
    kept = {json.loads(path.read_text())["about"]["key"] for path in _files(tmp_path, "*.json")}
    assert "a" in kept and "e" in kept and "c" not in kept and len(kept) == 3
    assert len(_files(tmp_path, "*.npy")) == 3
    assert torch.equal(opened, makers["a"].features)
    assert torch.equal(_get(cache, makers["c"], key="c"), makers["c"].features) and makers["c"].calls == 2


def test_what_does_not_fit_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker = Maker(torch.randn(10, 7))
    assert torch.equal(_get(FeatureCache(tmp_path, max_gb=100 / 1e9), maker), maker.features)
    assert not _files(tmp_path, "*")
    assert "cache.max_gb" in capsys.readouterr().err


def test_an_unwritable_folder_is_done_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    maker = Maker(torch.randn(10, 7))
    assert torch.equal(_get(FeatureCache(tmp_path / "file" / "cache"), maker), maker.features)
    assert "cache.enabled=false" in capsys.readouterr().err


def test_a_full_disk_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    maker = Maker(torch.randn(10, 7))
    assert torch.equal(_get(FeatureCache(tmp_path), maker), maker.features)
    assert not _files(tmp_path, ".*partial") and not _files(tmp_path, "*.npy")


def test_errors_of_the_pass_leave_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Tensor]:
        yield torch.zeros(2, 3)
        raise DataError("2 of 4 pictures cannot be decoded")

    with pytest.raises(DataError, match="cannot be decoded"):
        FeatureCache(tmp_path).features({}, 4, broken)
    with pytest.raises(ValueError, match="4 rows of features came for 5"):
        FeatureCache(tmp_path).features({}, 5, Maker(torch.zeros(4, 3)))
    assert not _files(tmp_path, "*.npy") and not _files(tmp_path, ".*partial")


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    for name, age in ((".old.1.partial", 100_000), (".new.1.partial", 10), ("lost-1.npy", 100_000)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    _get(FeatureCache(tmp_path), Maker(torch.zeros(2, 2)))
    assert [path.name for path in _files(tmp_path, ".*partial")] == [".new.1.partial"]
    assert not (tmp_path / "lost-1.npy").exists()


def many_at_once(rank: int, folder: str) -> int:
    """Ask for the same entries as the other processes, under a limit that some of them exceed."""
    wrong = 0
    for turn in range(10):
        key = turn % 5
        # as processors do, each process rounds a little differently
        maker = Maker(torch.full((200, 10), float(key)) + rank * 1e-6)
        features = FeatureCache(folder, max_gb=4 * (200 * 10 * 4 + 128) / 1e9).features({"key": key}, 200, maker)
        wrong += not bool(((features - key).abs() < 1e-5).all()) or len(features.unique()) != 1
        if rank == 0 and turn % 5 == 3:
            next(Path(folder).glob("*.npy")).unlink(missing_ok=True)
    return wrong


@pytest.mark.ddp
def test_several_processes_at_once(tmp_path: Path, run_processes: Callable[..., list[Any]]) -> None:
    assert run_processes(many_at_once, 2, str(tmp_path)) == [0, 0]
    for key in range(5):
        features = _get(FeatureCache(tmp_path), Maker(torch.full((200, 10), float(key))), key=key)
        assert ((features - key).abs() < 1e-5).all()
