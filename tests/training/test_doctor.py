from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made import picture_folder

from lgrep.callbacks import CollapseMonitor
from lgrep.config.compose import compose_config
from lgrep.config.identity import identity
from lgrep.data.cache import PictureCache
from lgrep.data.dataset import Collate
from lgrep.data.stores import FolderStore
from lgrep.data.transforms import Recipe
from lgrep.methods.simclr import SimCLR
from lgrep.training.doctor import loading, measured, rules, trials
from lgrep.training.doctor.ledger import Ledger
from lgrep.training.doctor.measured import Measured
from lgrep.training.doctor.rules import Advice, memory_verdict, verdict
from lgrep.training.fit import train
from lgrep.training.resolve import resolve


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ANCHORS", 4)
    monkeypatch.setattr(loading, "TRIED", 2)
    monkeypatch.setattr(trials, "REPEATS", 1)


def examined(folder: Path, *more: str) -> dict[str, Any]:
    """SimCLR on a few made pictures, six steps of it observed."""
    root = folder / "pictures"
    if not root.exists():
        picture_folder(root, groups=10, per_group=3)
    arguments = [
        *("method=simclr", "pairing=self", "augment=simclr", "data=folder", f"data.root={root}", "callbacks=none"),
        *("method.projector_dims=[16,16,8]", "backbone.image_size=32", "duration.steps=5", "schedule.warmup_steps=1"),
        *("loader.batch_size=8", "loader.workers=0", "trainer.accelerator=cpu", "trainer.devices=1"),
        *("trainer.threads=1", f"paths.runs={folder}/runs", "name=tiny", "doctor=6"),
    ]
    return train(*compose_config("train", [*arguments, *more]))


def slow(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slowed(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return function(*args, **kwargs)

    return slowed


def test_moments_count_once_for_the_innermost_part() -> None:
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0])  # start, enter, enter, enter, leave, leave, leave
    ledger = Ledger(lambda: next(clock))
    with ledger.part("step"), ledger.part("optimiser"):
        ledger.enter(None)
        assert ledger.within("step") and not ledger.within("loss")
        ledger.leave()
    assert ledger.seconds == {"other": 1.0, "step": 2.0 + 6.0, "optimiser": 3.0 + 4.0 + 5.0}


def test_parts_are_left_when_something_fails() -> None:
    ledger = Ledger()
    with pytest.raises(ValueError), ledger.part("a"):
        ledger.timed("b", lambda: int("x"))()
    assert not ledger.within("a") and not ledger.within("b")


def test_a_step_is_split_without_a_remainder_and_the_run_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = examined(tmp_path)
    parts = report["measured"]["parts"]
    assert sum(parts.values()) == pytest.approx(report["measured"]["step"], rel=0.02)
    known = {*measured.LOADING_PARTS, *measured.NETWORK, "copy", "device augmentation", "loss", "optimiser"}
    assert set(parts) <= {*known, "after_step", "callbacks", "other"}
    for part in ("read", "decode", "crop and resize", "collate", "backbone", "head", "backward", "optimiser"):
        assert parts[part] > 0, part
    assert set(report["measured"]["loading_trials"]) == {"loader.decode=scaled", "augment.device=cpu"}
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [str(path) for path in files] == [report["path"]]
    assert json.loads(files[0].read_text())["verdict"] == report["verdict"]
    printed = capsys.readouterr().out
    assert report["path"] in printed and "one training step" in printed and "bound by" in printed


def test_the_doctor_is_no_part_of_what_is_computed() -> None:
    values, _ = compose_config("train", [])
    assert values["doctor"] is False
    assert identity({**values, "doctor": True}) == identity(values)


@pytest.mark.parametrize(
    ("owner", "name", "stage", "workers"),
    [
        (FolderStore, "read", "read", 0),
        (PictureCache, "get", "decode", 0),
        (Recipe, "worker", "crop and resize", 0),
        (FolderStore, "read", "read", 2),
    ],
)
def test_a_slow_stage_of_loading_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stage: str, workers: int
) -> None:
    views = 2 if stage == "crop and resize" else 1
    seconds = (0.4 if workers else 0.1) / views  # far above what the network takes on a busy machine
    monkeypatch.setattr(owner, name, slow(getattr(owner, name), seconds))
    report = examined(tmp_path, f"loader.workers={workers}", "loader.batch_size=4", "doctor=3")
    found = report["measured"]
    assert report["bound"] == stage and stage in report["verdict"]
    assert seconds * views <= found["stages"][stage] < 3 * seconds * views  # per anchor
    assert report["pictures_per_second"]["loading"] < report["pictures_per_second"]["training"]
    if workers:
        assert found["parts"]["waiting for data"] > 0.5 * found["step"]
    assert any(item["type"].startswith("loader.workers=") for item in report["advice"]) or workers


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ((SimCLR, "training_loss"), "loss"),
        ((SimCLR, "after_step"), "after_step"),
        ((Collate, "__call__"), "collate"),
    ],
)
def test_a_slow_part_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[Any, str], bound: str
) -> None:
    owner, name = change
    monkeypatch.setattr(owner, name, slow(getattr(owner, name), 0.2))
    report = examined(tmp_path, "doctor=3")
    assert report["bound"] == bound
    assert report["measured"]["parts"][bound] == pytest.approx(0.2, abs=0.1)


def test_a_slow_probe_is_named_with_its_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CollapseMonitor, "act", slow(CollapseMonitor.act, 0.5))
    monitor = "+callbacks.mine={_target_: lgrep.callbacks.CollapseMonitor, every_n_steps: 2}"
    report = examined(tmp_path, monitor, "doctor=4")
    assert report["bound"] == "periodic callbacks"
    assert report["measured"]["periodic"]["mine"][0] == pytest.approx(0.5, abs=0.2)
    assert report["measured"]["step"] < 0.25  # its time is not in the steps
    assert report["advice"][0]["type"].startswith("callbacks.mine.every_n_steps=")


def test_pieces_are_computed_again(tmp_path: Path) -> None:
    report = examined(tmp_path, "trainer.chunk_size=4", "trainer.chunk_bn=true", "doctor=3")
    parts = report["measured"]["parts"]
    assert parts["recompute"] > 0 and parts["backbone"] > 0 and parts["device augmentation"] > 0


def test_a_run_that_does_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(SimCLR, "training_loss", full)
    report = examined(tmp_path)
    assert report["bound"] == "memory" and report["measured"] is None
    assert report["advice"][0]["type"].startswith("trainer.chunk_size=2 trainer.chunk_bn=true")


BALANCED = Measured(
    step=1.0,
    parts={"waiting for data": 0.05, "backbone": 0.3, "backward": 0.5, "loss": 0.1, "optimiser": 0.05},
    stages={"read": 0.001, "decode": 0.004, "crop and resize": 0.004, "collate": 0.001},
    anchors=100,
    pictures=200,
    workers=1,
    cores=16,
    device="cuda",
    batch_size=100,
)
WAITING = replace(BALANCED, step=4.0, parts={**BALANCED.parts, "waiting for data": 3.05}, stages={"read": 0.002, "decode": 0.03, "crop and resize": 0.008})  # fmt: skip


def typed(m: Measured) -> dict[str, Advice]:
    return {item.type.partition("=")[0]: item for item in verdict(m).advice}


def test_a_balanced_run_gets_no_advice_about_loading() -> None:
    assert verdict(BALANCED).bound == "network"
    assert not typed(BALANCED)


def test_workers_are_the_fewest_that_suffice() -> None:
    advice = typed(WAITING)["loader.workers"]
    assert advice.type == "loader.workers=5"  # a batch loads in 4 s, training takes 0.95
    assert advice.gain == pytest.approx(4.0 / 0.95)
    assert verdict(WAITING).bound == "decode"


def test_workers_stop_at_the_cores_unless_they_wait_for_storage() -> None:
    few = typed(replace(WAITING, cores=2))["loader.workers"]
    assert few.type == "loader.workers=2" and few.gain < 2.1
    reading = replace(WAITING, cores=2, stages={"read": 0.038, "decode": 0.002})
    assert typed(reading)["loader.workers"].type == "loader.workers=5"


def test_on_a_cpu_loading_and_training_share_the_cores() -> None:
    parts = {"decode": 1.0, "other loading": 0.0, "backbone": 0.3, "backward": 0.7}
    alone = Measured(2.0, parts, {"decode": 0.01}, 100, 200, workers=0, cores=2, threads=1)
    assert typed(alone)["loader.workers"].gain == pytest.approx(2.0)
    assert "loader.workers" not in typed(replace(alone, cores=1))
    assert typed(replace(alone, threads=2))["loader.workers"].gain == pytest.approx(2.0 / 1.5)


def test_a_cache_needs_room_for_all_pictures() -> None:
    small = replace(WAITING, decoded_bytes=2**30, free_memory=2**32)
    advice = typed(small)["loader.cache_mb"]
    assert advice.type == "loader.cache_mb=1127"
    assert advice.gain == pytest.approx(4.0 / 0.95, rel=0.01)  # cropping takes 0.8 s of a worker, training 0.95
    assert "loader.cache_mb" not in typed(replace(small, free_memory=2**31 - 1))
    assert "loader.cache_mb" not in typed(replace(small, cache_mb=1200))


def test_large_pictures_are_made_smaller_once() -> None:
    advice = verdict(replace(WAITING, short_side=1024)).advice
    command = next(item for item in advice if "prepare_data" in item.type)
    assert command.command and command.type.endswith("out=SET size=256 format=jpeg")
    left = 0.01 + 0.03 / 16  # decoding costs a sixteenth
    assert command.gain == pytest.approx(4.0 / (100 * left), rel=0.01)
    assert not [item for item in verdict(replace(WAITING, short_side=375)).advice if item.command]


def test_slow_storage() -> None:
    reading = replace(WAITING, stages={"read": 0.03, "decode": 0.01})
    assert verdict(reading).bound == "read"
    command = next(item for item in verdict(replace(reading, data="data=folder data.root=P")).advice if item.command)
    assert command.type == "python scripts/prepare_data.py data=folder data.root=P out=SET"
    assert typed(replace(reading, archives=True))["loader.order"].gain == command.gain


def test_a_tried_setting_counts_for_the_network_alone() -> None:
    trials = {"trainer.precision=bf16-mixed": 0.5, "trainer.channels_last=true": 1.01}
    advice = typed(replace(BALANCED, workers=4, trials=trials))
    assert list(advice) == ["trainer.precision"]
    assert advice["trainer.precision"].gain == pytest.approx(0.95 / 0.55)
    # one process that takes 1 s to load a batch could not feed the faster network
    assert not typed(replace(BALANCED, trials=trials))


def test_tried_loading() -> None:
    scaled = replace(WAITING, loading_trials={"loader.decode=scaled": 0.02})
    assert typed(scaled)["loader.decode"].gain == pytest.approx(2.0)
    assert "loader.decode" not in typed(replace(BALANCED, loading_trials={"loader.decode=scaled": 0.002}))
    # 0.4 s of a step move to sixteen idle workers, though each of them then takes twice as long
    busy = replace(BALANCED, workers=16, parts={"waiting for data": 0.0, "device augmentation": 0.4, "backbone": 0.6})
    moved = typed(replace(busy, loading_trials={"augment.device=cpu": 0.02}))["augment.device"]
    assert moved.gain == pytest.approx(1 / 0.6)
    assert "augment.device" not in typed(replace(busy, workers=1, loading_trials={"augment.device=cpu": 0.02}))
    augmenting = replace(WAITING, stages={"decode": 0.02, "augmentation": 0.02})
    assert typed(augmenting)["augment.device"].type == "augment.device=gpu"
    assert typed(augmenting)["augment.device"].gain == pytest.approx(2.0)
    assert "augment.device" not in typed(replace(augmenting, device="cpu"))


def test_batch_size_by_what_grows_with_it() -> None:
    idle = replace(BALANCED, parts={"backbone": 0.5, "optimiser": 0.5}, peak_memory=10, total_memory=80)
    assert typed(idle)["loader.batch_size"].type == "loader.batch_size=200"
    assert typed(idle)["loader.batch_size"].gain == pytest.approx(2 / 1.5)
    assert "loader.batch_size" not in typed(replace(idle, peak_memory=40))
    quadratic = replace(BALANCED, parts={"backbone": 0.2, "loss": 0.8})
    assert verdict(quadratic).bound == "loss"
    assert typed(quadratic)["loader.batch_size"].type == "loader.batch_size=50"


def test_pieces_that_nobody_needs() -> None:
    pieces = replace(BALANCED, parts={"backbone": 0.3, "recompute": 0.2, "backward": 0.5}, chunk_size=50)
    roomy = replace(pieces, peak_memory=10, total_memory=80)
    assert typed(roomy)["trainer.chunk_size"].gain == pytest.approx(1 / 0.8)
    assert "trainer.chunk_size" not in typed(replace(roomy, peak_memory=60))


def test_rare_callbacks_are_left_alone() -> None:
    often = replace(BALANCED, periodic={"knn": (30.0, 100), "linear": (1.0, 250)})
    advice = typed(often)
    assert list(advice) == ["callbacks.knn.every_n_steps"]
    assert advice["callbacks.knn.every_n_steps"].type.endswith("=5000")
    assert advice["callbacks.knn.every_n_steps"].gain == pytest.approx(1.304 / (1.004 + 30 / 5000))


def test_what_is_advised_can_be_typed() -> None:
    made = [
        replace(WAITING, decoded_bytes=2**30, free_memory=2**40, trials={"trainer.precision=bf16-mixed": 0.1}),
        replace(BALANCED, workers=4, trials={"trainer.channels_last=true": 0.5, "deterministic=false": 0.5, "trainer.threads=2": 0.5}),
        replace(BALANCED, parts={"backbone": 0.3, "recompute": 0.7}, chunk_size=50, peak_memory=1, total_memory=80),
        replace(BALANCED, parts={"backbone": 0.2, "loss": 0.8}),
        replace(BALANCED, periodic={"knn": (30.0, 100)}),
        replace(WAITING, stages={"read": 0.03, "augmentation": 0.01}, archives=True),
        replace(WAITING, loading_trials={"loader.decode=scaled": 0.02, "augment.device=cpu": 0.02}),
    ]  # fmt: skip
    advice = [item for m in made for item in verdict(m).advice if not item.command]
    advice += memory_verdict(64, None, True, "32-true").advice + memory_verdict(64, 16, False, "bf16-mixed").advice
    kinds = {word.partition("=")[0] for item in advice for word in item.type.split()}
    assert len(kinds) >= 13
    for item in advice:
        resolve(*compose_config("train", item.type.split()))


def test_every_rule_is_tested_to_fire() -> None:
    assert len(rules.RULES) == 11


def test_doctor_takes_a_number_of_steps_or_a_yes() -> None:
    assert resolve(*compose_config("train", ["doctor=true"])).config.doctor is True
    assert resolve(*compose_config("train", ["doctor=20"])).config.doctor == 20
    assert not resolve(*compose_config("train", ["doctor=false"])).config.doctor
