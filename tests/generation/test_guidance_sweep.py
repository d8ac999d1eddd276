"""The guidance-scale sweep: sets, runs and evaluations of one command, its curves, and what happens to failures."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import guidance_sweep
import numpy as np
import pyarrow as pa
import pytest
import torch
from generation import tiny
from PIL import Image
from torch import nn

from lgrep.config.compose import compose_config
from lgrep.config.sources import build_source, source_spec
from lgrep.data.emoji import open_emoji
from lgrep.data.sources import EmojiSource
from lgrep.errors import DataError, LgrepError
from lgrep.evaluation.datasets import emoji as evaluated
from lgrep.generation import emoji_drawings, emoji_report, sweep, sweep_measures
from lgrep.generation.captions import captions_of
from lgrep.generation.emoji_drawings import Drawings
from lgrep.generation.run import generate
from lgrep.generation.sweep import Sweep
from lgrep.generation.sweep_measures import SetMeasures
from lgrep.generation.sweep_programs import Programs, Stopped
from lgrep.generation.sweep_report import Line, Point, cells, draw, markdown, write_report
from lgrep.generation.sweep_settings import Job, SweepSettings, jobs_of, train_overrides
from lgrep.training.fit import train

CAPTIONS = 6
TINY = ("backbone.image_size=32", "method.projector_dims=[8,4]", "loader.batch_size=3", "pairing.pictures=2",
        "schedule.warmup_steps=0", "callbacks=none", "trainer.accelerator=cpu", "trainer.devices=1",
        "trainer.threads=1")  # fmt: skip


class Noted:
    """Programs in this process, by name in `ran`; those with a setting in `broken` fail."""

    def __init__(self, *broken: str) -> None:
        self.broken, self.ran = broken, list[str]()

    def __call__(self, program: str, overrides: Sequence[str]) -> dict[str, Any]:
        if set(self.broken) & set(overrides):
            raise LgrepError("it fails on purpose")
        self.ran.append(program)
        return {"generate": generate, "train": train}[program](*compose_config(program, overrides))


@pytest.fixture(scope="module")
def drawings() -> Iterator[Drawings]:
    """The judge knows the sweep's captions and a few others, and sees pixels; models are evaluated on a thirtieth."""
    table, group = open_emoji(), open_emoji().group
    wanted = captions_of(EmojiSource().training()).limited(CAPTIONS, 0).table["text"].to_pylist()
    kept = np.isin(table.captions["text"].to_pylist(), wanted) | (np.arange(table.num_groups) % 60 == 0)
    pixels = nn.Sequential(nn.AvgPool2d(16), nn.Flatten())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji_drawings, "open_emoji", lambda: table.select(np.flatnonzero(kept[group])))
        patch.setattr(emoji_report, "packaged_encoder", lambda size: (pixels, None))
        patch.setattr(sweep_measures, "load_emoji_pipeline", lambda: None)  # nothing is drawn by the measures
        patch.setattr(evaluated, "open_emoji", lambda: table.select(np.flatnonzero(group % 30 == 0)))
        patch.setattr(sweep, "EVALUATIONS", {"knn": "knn", "emoji": "R@1"})
        yield emoji_drawings.training_drawings()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, drawings: Drawings) -> SweepSettings:
    root = tmp_path_factory.mktemp("sweep")
    tiny.pipeline().save_pretrained(root / "pipe")
    drawn = ("generator=diffusers", f"generator.pipeline={root / 'pipe'}", "generator.steps=1", "processes=1",
             "device=cpu", "generator.codec=png")  # fmt: skip
    return SweepSettings(scales=(1.0, 2.5), methods=("stablerep",), seeds=1, captions=CAPTIONS, images=2, steps=2,
                         out=root / "out", generate=drawn, train=TINY)  # fmt: skip


@pytest.fixture(scope="module")
def first(settings: SweepSettings) -> tuple[Sweep, Noted, int]:
    """A sweep of which one job fails."""
    noted = Noted("data.guidance_scale=2.5")
    found = Sweep(settings, noted)
    return found, noted, found.run()


def written(settings: SweepSettings) -> tuple[list[dict[str, str]], dict[str, Any]]:
    rows = list(csv.DictReader((settings.out / "curves.csv").open()))
    return rows, json.loads((settings.out / "curves.json").read_text())


def test_a_failed_job_does_not_end_the_rest(first: tuple[Sweep, Noted, int], settings: SweepSettings) -> None:
    made, noted, code = first
    assert code == 1 and noted.ran == ["generate", "generate", "train", "train"]
    assert [failure["job"] for failure in made.failed] == ["stablerep on guidance scale 2.5, seed 0"]
    assert (settings.out / "guidance.png").is_file()
    rows, about = written(settings)
    for measure in ("knn", "R@1"):
        found = {(row["source"], row["scale"], row["seed"]) for row in rows if row["measure"] == measure}
        assert found == {("real", "", "0"), ("synthetic", "1.0", "0"), ("untrained", "", ""), ("pixels", "", "")}
    assert about["failed"] == made.failed and "on purpose" in about["failed"][0]["error"]
    assert [one["scale"] for one in about["sets"]] == [1.0, 2.5]
    assert {"unet", "vae", "text_encoder"} <= about["sets"][0]["weights"].keys()
    assert all(len(run["weights_hash"]) == 16 and run["budget"]["steps"] == 2 for run in about["runs"])


def test_the_same_command_does_what_is_missing(
    first: tuple[Sweep, Noted, int], settings: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = written(settings)
    monkeypatch.setattr(Sweep, "_evaluated", lambda self, run_dir: {"knn": 0.5})
    monkeypatch.setattr(SetMeasures, "_measured", None)  # would fail if it were asked for
    noted = Noted()
    monkeypatch.setattr("lgrep.generation.sweep.draw", lambda points, path: None)
    assert Sweep(settings, noted).run() == 0
    assert noted.ran == ["generate", "generate", "train"]  # whether a set is finished, generate.py decides
    rows, about = written(settings)
    assert about["failed"] == [] and len(about["runs"]) == 3
    of_sets = [row for row in before if row["seed"] == "" and row["source"] in ("synthetic", "real")]
    assert [row for row in rows if row["seed"] == ""] == of_sets and len(of_sets) == 3 * 4


def test_sets_and_real_drawings_have_the_same_captions(
    first: tuple[Sweep, Noted, int], settings: SweepSettings
) -> None:
    texts = []
    for job in (Job(None, "stablerep", 0), Job(1.0, "stablerep", 0)):
        values, _ = compose_config("train", train_overrides(settings, job, str(first[0].sets[1.0]["run_dir"])))
        table = build_source(source_spec(values["data"])).training()
        texts.append({table.caption(row) for row in range(len(table))})
    assert texts[0] == texts[1] and len(texts[0]) == CAPTIONS


@pytest.mark.parametrize("same_text", ["merge", "separate"])
def test_real_and_generated_emoji_mix(first: tuple[Sweep, Noted, int], same_text: str) -> None:
    parts = ["+data@data.parts.real=emoji", "+data@data.parts.made=generated", "data.parts.made.guidance_scale=1"]
    root = f"data.parts.made.root={first[0].sets[1.0]['run_dir']}"
    shares = ["data.shares={real: 0.5, made: 0.5}"] if same_text == "separate" else []
    values, _ = compose_config("train", ["data=union", *parts, root, f"data.same_text={same_text}", *shares])
    source = build_source(source_spec(values["data"]))
    table, real = source.training(), EmojiSource().training()
    part = table.column("part")
    assert part.sum() == 2 * CAPTIONS and len(table) == len(real) + 2 * CAPTIONS
    if same_text == "merge":
        mixed = [group for group in range(table.num_groups) if len(set(part[list(table.members(group))])) == 2]
        assert table.num_groups == real.num_groups and len(mixed) == CAPTIONS
    else:
        assert table.num_groups == real.num_groups + CAPTIONS


class Judged:
    """A set of two pictures of each known caption, of one picture of another, and of an unknown one."""

    def __init__(self, texts: list[str]) -> None:
        self.captions = pa.table({"text": [*texts, "no such emoji"]})
        self.name, self.content_hash, self.num_groups = "judged", "0" * 16, len(texts) + 1
        self.group = np.repeat(np.arange(len(texts) + 1), [2] * (len(texts) - 1) + [1, 2])

    def column(self, name: str) -> np.ndarray:
        assert name == "index"
        return np.concatenate([[0, 1] * (self.num_groups - 2), [0], [0, 1]])


def test_diversity_and_fidelity_are_those_of_the_pictures(
    drawings: Drawings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = len(drawings.captions) - 1
    pairs = torch.stack([torch.nonzero(drawings.caption == row).flatten()[:2] for row in range(known)])
    shown: list[int] = []

    def pictures(table: Any, rows: np.ndarray) -> torch.Tensor:
        shown.extend(rows.tolist())
        return emoji_drawings.to_float(drawings.pixels[order[rows]])

    monkeypatch.setattr(sweep_measures, "open_set", lambda place: Judged(drawings.captions))
    monkeypatch.setattr(sweep_measures, "_pictures", pictures)
    order = pairs.flatten()
    right = SetMeasures(tmp_path / "right", 2)
    found = right.of(Path())
    assert shown == list(range(2 * known))  # of captions that are known and have both pictures
    assert found["caption_top1"] > 0.9 and found["caption_top5"] >= found["caption_top1"]
    features = right._report.encode(emoji_drawings.to_float(drawings.pixels[pairs.flatten()]))
    by_hand = features.view(known, 2, -1).var(dim=1, correction=0).sum(1).mean()
    assert found["diversity"] == pytest.approx(float(by_hand), rel=1e-4)
    order = pairs.roll(1, dims=0).flatten()  # drawings of another caption
    wrong = SetMeasures(tmp_path / "wrong", 2)
    wrong.__dict__["_report"] = right._report
    assert wrong.of(Path())["caption_top1"] < 0.1
    assert SetMeasures(tmp_path / "wrong", 2).of(Path()) == wrong.of(Path()) and len(shown) == 4 * known
    monkeypatch.setattr(sweep_measures, "open_set", lambda place: Judged(["a", "b"]))
    wrong.folder = tmp_path / "none"
    with pytest.raises(DataError, match="data=emoji"):
        wrong.of(Path())


def test_a_full_sweep_is_seed_by_seed(tmp_path: Path) -> None:
    jobs = list(jobs_of(SweepSettings()))
    assert len(jobs) == 6 + 3 * 3 * 7 and [job.scale for job in jobs[:6]] == [1, 2, 4, 6, 8, 10]
    assert {job.seed for job in jobs[6:27]} == {0} and jobs[6] == Job(None, "stablerep", 0)
    typed = train_overrides(SweepSettings(group="a, b=c", out=tmp_path / "it's here"), Job(2.0, "clip", 1), "x")
    values, _ = compose_config("train", typed)
    assert values["logger"]["wandb"]["group"] == "a, b=c" and values["paths"]["runs"] == str(
        tmp_path / "it's here/runs"
    )
    assert (values["data"]["guidance_scale"], values["data"]["images_per_caption"], values["seed"]) == (2, 4, 1)


def points() -> list[Point]:
    runs = [("real", None, 0, 0.5), ("real", None, 1, 0.7), ("synthetic", 2.0, 0, 0.1), ("synthetic", 2.0, 1, 0.2),
            ("synthetic", 2.0, 2, 0.3), ("synthetic", 10.0, 0, 0.4)]  # fmt: skip
    found = [Point("knn", source, "simclr", scale, seed, value) for source, scale, seed, value in runs]
    sets = [Point("diversity", "synthetic", None, 2.0, None, 0.25), Point("diversity", "real", None, None, None, 0.5)]
    return [*found, *sets, Point("knn", "pixels", None, None, None, 0.05)]


def test_the_report_has_means_and_intervals_over_seeds(tmp_path: Path) -> None:
    cell = cells(points())[Line("knn", "synthetic", "simclr")][2.0]
    assert cell.mean == pytest.approx(0.2) and cell.interval == pytest.approx(4.3026527 * 0.1 / math.sqrt(3))
    lines = markdown(points()).splitlines()
    assert lines[2:6] == [
        "| simclr | real drawings | 0.600 ± 1.271 | - | - |",
        "| simclr | generated, scale 2 | 0.200 ± 0.248 | - | - |",
        "| simclr | generated, scale 10 | 0.400 | - | - |",
        "|  | pixels | 0.050 | - | - |",
    ]
    assert "| real drawings | 0.500 | - | - | - |" in lines and "1 to 3 seeds" in lines[-1]
    write_report(points(), {"failed": []}, tmp_path)
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [float(row["value"]) for row in rows] == [point.value for point in points()]
    draw(points(), tmp_path / "guidance.png")
    assert Image.open(tmp_path / "guidance.png").size[0] > 1000
    write_report([], {"failed": []}, tmp_path / "none")  # nothing has worked yet
    assert list(csv.reader((tmp_path / "none" / "curves.csv").open())) == [[*rows[0]]]


def test_programs_are_processes_whose_ends_are_told(tmp_path: Path) -> None:
    tell = "import json, os, sys, time; tell = lambda d: open(os.environ['LGREP_OUTCOME'], 'w').write(json.dumps(d))\n"
    (tmp_path / "train.py").write_text(tell + "tell({'result': {'finished': True, 'typed': sys.argv[1:]}})")
    assert Programs(tmp_path, tmp_path / "jobs")("train", ["a=1", "b=[x, y]"]) == {
        "finished": True,
        "typed": ["a=1", "b=[x, y]"],
    }
    (tmp_path / "train.py").write_text(tell + "tell({'error': 'no disk'}); sys.exit(3)")
    with pytest.raises(LgrepError, match=r"train\.py a=1: no disk"):
        Programs(tmp_path, tmp_path / "jobs")("train", ["a=1"])
    (tmp_path / "train.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(LgrepError, match="SIGKILL"):
        Programs(tmp_path, tmp_path / "jobs")("train", [])


def test_a_signal_reaches_the_program_first(tmp_path: Path) -> None:
    there, ended = tmp_path / "there", tmp_path / "ended"
    (tmp_path / "train.py").write_text(f"""
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path({str(ended)!r}).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path({str(there)!r}).touch()
time.sleep(60)
""")

    def stop() -> None:
        while not there.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop).start()
    with pytest.raises(Stopped) as caught:
        Programs(tmp_path, tmp_path / "jobs")("train", [])
    assert caught.value.exit_code == 143 and ended.exists() and signal.getsignal(signal.SIGTERM) == before


def test_wrong_settings_fail_before_anything_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [(["--methods", "stablerp"], "stablerep"), (["--scales", "2", "2"], "twice"), (["--seeds", "0"], "seeds"),
             (["--train", "optimizer.base_rl=1"], "base_lr"), (["--generate", "generator.step=3"], "steps")]  # fmt: skip
    for typed, words in cases:
        assert guidance_sweep.main([*typed, "--out", str(tmp_path / "out")]) == 2, typed
        assert words in capsys.readouterr().err, typed
    assert not (tmp_path / "out").exists()


def test_a_missing_set_is_told_with_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values, _ = compose_config("train", ["+experiment=stablerep_emoji_synthetic", "data.guidance_scale=4"])
    with pytest.raises(DataError, match=r"type python generate\.py generator\.guidance_scale=4 first"):
        build_source(source_spec(values["data"])).training()
    (tmp_path / "generated/emoji_emoji").mkdir(parents=True)
    with pytest.raises(DataError, match=r"Type python generate\.py generator\.guidance_scale=4 first"):
        build_source(source_spec(values["data"])).training()
