"""Broken pictures during training: replaced, counted once, limited; loading processes that die."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made import encoded

from lgrep import cli
from lgrep.methods.base import Method
from lgrep.training.fit import train
from training.runs import only_run, run, script, start

CRASH = b"crash here"
# As the entry point; a picture that ends with CRASH ends the process that decodes it in the way of the first argument.
CRASHING = """
import os, signal, sys
import lgrep.data.cache as cache
from lgrep.cli import run
from lgrep.training.fit import train

def decode(data, *more, whole=cache.decode_pixels):
    if data.endswith(b"crash here"):
        ways = {"exit": lambda: os._exit(7), "killed": lambda: os.kill(os.getpid(), signal.SIGKILL)}
        ways["segfault"] = lambda: os.kill(os.getpid(), signal.SIGSEGV)
        if os.environ.get("LOCAL_RANK", "0") == sys.argv[2]:
            ways[sys.argv[1]]()
    return whole(data, *more)

cache.decode_pixels = decode
sys.exit(run("train", "", train, sys.argv[3:]))
"""


def pictures(root: Path, number: int = 40, broken: Sequence[int] = ()) -> Path:
    root.mkdir()
    for i in range(number):
        (root / f"{i:02d}.png").write_bytes(encoded(i)[:60] if i in broken else encoded(i))
    return root


def overrides(root: Path, runs: Path, *more: str) -> list[str]:
    """SimCLR on the pictures of a folder: two views of each, all of them once in 5 steps."""
    return [
        *("method=simclr", "pairing=self", "augment=simclr", "data=folder", f"data.root={root}", "callbacks=none"),
        *("method.projector_dims=[16,16,8]", "backbone.image_size=32", "optimizer.base_lr=0.05"),
        *("duration.steps=10", "schedule.warmup_steps=1", "loader.batch_size=8", "loader.workers=0"),
        *("trainer.accelerator=cpu", "trainer.devices=1", "trainer.threads=1", "checkpoint.every_n_steps=3"),
        *(f"paths.runs={runs}", "name=faults", *more),
    ]


def skipped(runs: Path) -> list[dict[str, Any]]:
    lines = []
    for path in sorted(only_run(runs).glob("skipped*.jsonl")):
        lines += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return lines


def test_every_broken_picture_counts_once_per_epoch_with_any_number_of_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four of 40 pictures in two epochs are eight replacements, in however many views each was shown."""
    bar = "+callbacks.progress={_target_: lgrep.callbacks.ProgressBar, style: plain}"
    root, found = pictures(tmp_path / "p", broken=[3, 14, 15, 39]), {}
    for workers in (0, 1, 3):
        runs = tmp_path / f"workers{workers}"
        summary = run(overrides(root, runs, f"loader.workers={workers}", bar))
        assert capsys.readouterr().out.rstrip().endswith("8 pictures replaced")
        found[workers] = skipped(runs)
        assert summary["replaced_pictures"] == len(found[workers]) == 8
    assert found[0] == found[1] == found[3]
    assert {line["picture"] for line in found[0]} == {"03.png", "14.png", "15.png", "39.png"}
    for line in found[0]:
        assert line["where"] == str(root / line["picture"])
        assert line["reason"] == "a PNG file with a broken header" or "truncated" in line["reason"]
        assert line["replaced_by"] not in {"03.png", "14.png", "15.png", "39.png"}
        assert 0 <= line["step"] < 10


@pytest.mark.ddp
def test_two_processes_count_together(tmp_path: Path) -> None:
    root, entry = pictures(tmp_path / "p", broken=range(10)), script(tmp_path)
    for devices in (1, 2):
        runs = tmp_path / f"devices{devices}"
        arguments = overrides(root, runs, f"trainer.devices={devices}", "duration.steps=5", "loader.max_skip_share=1")
        if devices == 1:
            run(arguments)
        else:
            done = start([entry, *arguments])
            assert done.returncode == 0, done.stderr
        assert json.loads((only_run(runs) / "summary.json").read_text())["replaced_pictures"] == 10
    alone, together = (
        sorted((line["step"], line["picture"], line["replaced_by"]) for line in skipped(tmp_path / f"devices{devices}"))
        for devices in (1, 2)
    )
    assert alone == together


@pytest.mark.ddp
def test_two_processes_stop_together(tmp_path: Path) -> None:
    """Each judges the pictures of both, at the same step: same message, same exit code, nobody is left waiting."""
    root, entry = pictures(tmp_path / "p", broken=range(10)), script(tmp_path)
    limits = ("trainer.devices=2", "loader.batch_size=20", "duration.steps=30")
    stopped = start([entry, *overrides(root, tmp_path / "runs", *limits)])
    assert stopped.returncode == 3
    assert "Traceback" not in stopped.stderr
    told = re.findall(r"error: (\d+) of (\d+) pictures could not be read", stopped.stderr)
    assert told == [("100", "400")] * 2


def test_an_interrupted_run_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "p", broken=[3, 14, 15, 39])
    whole = run(overrides(root, tmp_path / "whole"))

    class Interruption(BaseException):
        pass

    begin = Method.on_train_batch_start

    def stop(self: Method, batch: object, batch_idx: int) -> None:
        if self.global_step == 8:
            raise Interruption
        begin(self, batch, batch_idx)  # type: ignore[arg-type]

    parts = overrides(root, tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(Method, "on_train_batch_start", stop)
        with pytest.raises(Interruption):
            run(parts)
    path = only_run(tmp_path / "parts") / "skipped.jsonl"
    with path.open("a") as handle:
        handle.write('{"step": 7, "pict')  # killed while writing
    assert run(parts)["replaced_pictures"] == whole["replaced_pictures"] == 8
    assert skipped(tmp_path / "parts") == skipped(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_pictures_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """The share is judged from 200 pictures on: here after 25 steps, when a quarter of them was broken."""
    root = pictures(tmp_path / "p", broken=range(10))
    arguments = overrides(root, tmp_path / "runs", f"loader.workers={workers}", "duration.steps=40")
    assert cli.run("train", "", train, arguments) == 3
    said = capsys.readouterr().err
    assert "error: 50 of 200 pictures could not be read, more than loader.max_skip_share=0.1; the last: " in said
    assert "type loader.max_skip_share=1 to go on" in said
    assert "Traceback" not in said
    assert len(skipped(tmp_path / "runs")) == 50


@pytest.mark.parametrize("workers", [0, 1])
def test_when_every_picture_is_broken_the_run_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    root = pictures(tmp_path / "p", broken=range(40))
    assert cli.run("train", "", train, overrides(root, tmp_path / "runs", f"loader.workers={workers}")) == 3
    said = capsys.readouterr().err
    assert re.search(r"^error: p: \S+/p/\d\d\.png cannot be read \(.*\), and neither could \d\d pictures", said, re.M)
    assert "Traceback" not in said and "Caught" not in said


def test_a_file_that_vanishes_or_is_locked_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "p")
    read_bytes = Path.read_bytes

    def read(self: Path) -> bytes:
        (root / "05.png").unlink(missing_ok=True)
        if self.name == "06.png":
            raise PermissionError(13, "Permission denied", str(self))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert run(overrides(root, tmp_path / "runs"))["replaced_pictures"] == 4
    reasons = {(line["picture"], line["reason"]) for line in skipped(tmp_path / "runs")}
    assert reasons == {("05.png", "No such file or directory"), ("06.png", "Permission denied")}


def test_what_the_source_left_out_is_in_the_list_too(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p", broken=[7])
    (root / "empty\nname.png").write_bytes(b"")
    run(overrides(root, tmp_path / "runs"))
    first, *others = skipped(tmp_path / "runs")
    assert first == {
        "step": -1,
        "picture": r"empty\nname.png",
        "where": None,
        "reason": "empty file",
        "replaced_by": None,
    }
    assert [line["picture"] for line in others] == ["07.png"] * 2


@pytest.mark.parametrize("workers", [0, 1])
def test_out_of_memory_names_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    def greedy(self: object, picture: object, params: object, size: int) -> None:
        raise MemoryError

    monkeypatch.setattr("lgrep.data.transforms.Recipe.worker", greedy)
    root = pictures(tmp_path / "p")
    assert cli.run("train", "", train, overrides(root, tmp_path / "runs", f"loader.workers={workers}")) == 3
    said = capsys.readouterr().err
    assert re.search(r"^error: out of memory while loading \S+/p/\d\d\.png\. Type loader\.workers=N", said, re.M)
    assert "Traceback" not in said


def crash(tmp_path: Path, way: str, rank: int, *more: str) -> Any:
    root, entry = pictures(tmp_path / "p", 16), tmp_path / "crash.py"
    (root / "09.png").write_bytes(encoded(9) + CRASH)
    entry.write_text(CRASHING)
    return start([str(entry), way, str(rank), *overrides(root, tmp_path / "runs", "loader.workers=1", *more)])


@pytest.mark.skipif(sys.platform != "linux", reason="how a worker's death shows differs")
@pytest.mark.parametrize("way", ["exit", "segfault", "killed"])
def test_a_dead_loading_process_ends_the_run_and_names_its_picture(tmp_path: Path, way: str) -> None:
    done = crash(tmp_path, way, 0)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert re.search(
        r"error: a loading process died \(.*\); the last picture it began is \S+/p/09\.png\. ", done.stderr
    )


@pytest.mark.ddp
def test_a_dead_loading_process_ends_the_other_training_process_too(tmp_path: Path) -> None:
    done = crash(tmp_path, "exit", 1, "trainer.devices=2")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "the last picture it began is" in done.stderr
