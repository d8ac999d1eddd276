"""Any source becomes a set: the same pictures and batches, whatever the processes and the kills."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from layouts import stablerep_layout
from made import encoded, picture_folder
from PIL import Image
from training.runs import assert_equal, overrides, state
from training.runs import run as train

from lgrep.cli import run
from lgrep.config.prepare import spelled_out
from lgrep.data.pictures import decode
from lgrep.data.preparing import Encoding, prepare
from lgrep.data.preparing.shards import Shards
from lgrep.data.progress import describe
from lgrep.data.shards import verify_set
from lgrep.data.sources import CaptionFolders, EmojiSource, FolderSource
from lgrep.data.stores import FolderStore
from lgrep.data.table import Table, open_set
from lgrep.errors import ConfigError, DataError, LgrepError

ROOT = Path(__file__).resolve().parents[3]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same_pictures(source: Table, made: Table, bytes_too: bool = True) -> None:
    assert len(source) == len(made) and source.num_groups == made.num_groups
    assert [source.identity(row) for row in range(len(source))] == [made.identity(row) for row in range(len(made))]
    for row in range(len(source)):
        assert source.caption_row(row) == made.caption_row(row)
        assert source.texts(row) == made.texts(row)
        assert not bytes_too or source.read(row) == made.read(row)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "PICTURES", groups=8, per_group=4)


def caption_folders(tmp_path: Path) -> Table:
    layout = stablerep_layout(tmp_path / "stablerep", captions=7, seeds=3)
    return CaptionFolders(str(layout / "captions.csv"), str(layout), seeds=3, same_text="merge").training()


def test_every_source_becomes_a_set_with_its_rows(pictures: Path, tmp_path: Path) -> None:
    emoji = EmojiSource().training()
    tables = {
        "folder": FolderSource(str(pictures), captions="sidecar", group="folder", labels="folder").training(),
        "seeds": caption_folders(tmp_path),
        "emoji": emoji.select(np.arange(0, len(emoji), 30)),
    }
    for name, table in tables.items():
        prepare(table, tmp_path / name, shard_rows=10)
        verify_set(tmp_path / name)
        made = open_set(tmp_path / name)
        assert_same_pictures(table, made)
        assert made.caption_column("first").tolist() == [made.members(group).start for group in range(made.num_groups)]
        for column in ("label", "family", "designer"):
            assert table.has(column) == made.has(column)
            assert not table.has(column) or table.column(column).tolist() == made.column(column).tolist()
    features = tables["emoji"].caption_column("embedding")
    assert np.array_equal(features, open_set(tmp_path / "emoji").caption_column("embedding"))
    made_again = open_set(tmp_path / "emoji")
    prepare(made_again, tmp_path / "again", shard_rows=10)
    assert_same_pictures(made_again, open_set(tmp_path / "again"))


def test_any_number_of_processes_writes_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    (pictures / "class_a" / "caption_1" / "2.png").write_bytes(b"broken")
    table = FolderSource(str(pictures), captions="sidecar", group="folder").training()
    for workers in (0, 1, 3):
        prepare(table, tmp_path / str(workers), Encoding(size=20), shard_rows=5, workers=workers)
    first = contents(tmp_path / "0")
    assert "skipped.jsonl" in first and len(first) == 7 + 4
    assert contents(tmp_path / "1") == first and contents(tmp_path / "3") == first


def prepare_slowly(root: str, out: str, workers: int) -> None:
    encode = Shards._encoded

    def slow(self: Shards, row: int) -> tuple[bytes | None, str]:
        time.sleep(0.03)
        return encode(self, row)

    Shards._encoded = slow  # type: ignore[method-assign]
    prepare(FolderSource(root).training(), out, shard_rows=5, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_from_its_finished_shards(pictures: Path, tmp_path: Path, workers: int) -> None:
    table = FolderSource(str(pictures)).training()
    prepare(table, tmp_path / "whole", shard_rows=5)
    out = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(
        target=prepare_slowly, args=(str(pictures), str(out), workers), daemon=False
    )
    process.start()
    while not (len(list(out.glob("shard-*"))) >= 2 and list((out / "preparing").glob("*.partial-*"))):
        time.sleep(0.01)
        assert process.is_alive()
    process.kill()
    process.join()
    kept = {path.name: path.stat().st_ino for path in (out / "preparing").glob("rows-*.arrow")}
    assert 1 <= len(kept) < 7 and not (out / "set.json").exists()
    inodes = {number: (out / f"shard-{number}.zip").stat().st_ino for number in (n[5:10] for n in kept)}
    prepare(table, out, shard_rows=5, workers=2)
    assert contents(out) == contents(tmp_path / "whole")
    assert {number: (out / f"shard-{number}.zip").stat().st_ino for number in inodes} == inodes


def test_a_finished_set_is_left_alone_and_other_content_is_refused(pictures: Path, tmp_path: Path) -> None:
    table, out = FolderSource(str(pictures)).training(), tmp_path / "out"
    prepare(table, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(table, out)["pictures"] == 32
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(ConfigError, match="size=None there and 16 now"):
        prepare(table, out, Encoding(size=16))
    (pictures / "more.png").write_bytes(encoded(5))
    with pytest.raises(ConfigError, match="rows=32 there and 33 now"):
        prepare(FolderSource(str(pictures)).training(), out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        prepare(table, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="is a file"):
        prepare(table, tmp_path / "other" / "thesis.tex")


def test_broken_pictures_are_left_out_and_named(pictures: Path, tmp_path: Path) -> None:
    folder = pictures / "class_b" / "caption_0"
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"<html>gone</html>")
    (pictures / "class_a" / "caption_1" / "0.png").write_bytes(encoded(1)[:-30])
    table = FolderSource(str(pictures), captions="sidecar", group="folder").training()
    with pytest.raises(DataError, match=r"5 of 32 pictures are broken, more than max_skip_share=0.1"):
        prepare(table, tmp_path / "out", shard_rows=6)
    assert (tmp_path / "out" / "skipped.jsonl").is_file() and not (tmp_path / "out" / "set.json").exists()
    about = prepare(table, tmp_path / "out", shard_rows=6, max_skip_share=0.2, left_out=[("x.png", "empty file")])
    made = open_set(tmp_path / "out")
    verify_set(tmp_path / "out")
    assert (about["skipped"], len(made), made.num_groups) == (5, 27, 7)
    expected = [
        row for row in range(32) if "caption_0" not in table.identity(row) and "caption_1/0" not in table.identity(row)
    ]
    assert_same_pictures(table.select(expected), made)
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["picture"] for line in lines][:2] == ["x.png", "class_a/caption_1/0.png"]
    assert all(line["picture"].startswith("class_b/caption_0") and "HTML" in line["reason"] for line in lines[2:])
    with pytest.raises(DataError, match="none of its 4 pictures"):
        prepare(FolderSource(str(folder)).training(), tmp_path / "none", max_skip_share=1)


def test_a_file_that_disappears_is_a_broken_picture(pictures: Path, tmp_path: Path) -> None:
    table = FolderSource(str(pictures)).training()
    (pictures / table.identity(3)).unlink()
    assert prepare(table, tmp_path / "out", Encoding(check="read"))["skipped"] == 1


def test_training_sees_the_same_batches(tmp_path: Path) -> None:
    weights = []
    for name, data in (("before", []), ("after", ["data=shards", f"data.root={tmp_path}/set"])):
        arguments = overrides(
            tmp_path / "P", tmp_path / name, "duration.steps=2", "schedule.warmup_steps=1", "callbacks=none"
        )
        kept = [a for a in arguments if not a.startswith("callbacks.")]
        arguments = [a for a in kept if not a.startswith("data")] + data if data else kept
        train(arguments)
        weights.append(state(tmp_path / name)["state_dict"])
        prepare(FolderSource(str(tmp_path / "P"), group="folder", labels="folder", probe_share=0.3).training(), tmp_path / "set", shard_rows=7)  # fmt: skip
    assert_equal(*weights)


def picture_bytes(width: int, height: int, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
    noise.save(buffer, kind, **options)
    return buffer.getvalue()


def test_what_is_encoded_anew() -> None:
    small, large, png = picture_bytes(40, 30, "JPEG"), picture_bytes(100, 50, "JPEG"), picture_bytes(64, 90, "PNG")
    assert Encoding(size=30)(small) is small and Encoding()(png) is png
    for encoding, data, kind, size in (
        (Encoding(size=25), large, "JPEG", (50, 25)),
        (Encoding(size=32), png, "PNG", (32, 45)),
        (Encoding(format="jpeg"), png, "JPEG", (64, 90)),
        (Encoding(size=200, format="png"), large, "PNG", (100, 50)),
        (Encoding(size=20), picture_bytes(40, 40, "WEBP"), "PNG", (20, 20)),
    ):
        stored = Image.open(BytesIO(encoding(data)))
        assert (stored.format, stored.size) == (kind, size)
        expected = np.asarray(decode(data).resize(size, Image.Resampling.BICUBIC), np.float64)
        assert np.abs(np.asarray(stored, np.float64) - expected).mean() < (6 if kind == "JPEG" else 1e-9)
    assert len(Encoding(size=25, quality=20)(large)) < len(Encoding(size=25)(large))
    turned = picture_bytes(60, 30, "JPEG", exif=_turned())
    assert Image.open(BytesIO(Encoding(size=15)(turned))).size == (15, 30)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_repeated_ids_get_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    ids = ["a", "b", "a", "a~2", "b", "a"]
    columns = pa.table({"id": ids, "group": pa.array(range(6), pa.int32())})
    captions = pa.table({"id": list("012345"), "text": ["", "é", "x\n", "\u2028", "y", "z"]})
    table = Table(columns, captions, FolderStore(tmp_path, [f"{n}.png" for n in range(6)]), "doubled", "0" * 16)
    prepare(table, tmp_path / "out", shard_rows=2)
    verify_set(tmp_path / "out")
    made = open_set(tmp_path / "out")
    assert made.column("id").tolist() == ["a", "b", "a~~2", "a~2", "b~~2", "a~~3"]
    assert [made.caption(row) for row in range(6)] == captions["text"].to_pylist()
    assert "3 pictures repeat the id" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_keeps_what_is_finished(
    pictures: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lgrep.data.preparing.shards as module

    table, out = FolderSource(str(pictures)).training(), tmp_path / "out"
    whole = module.os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "shard-00004.zip":
            raise OSError(28, "No space left on device", str(target))
        whole(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", full)
        with pytest.raises(
            LgrepError, match=r"No space left on device while writing .*shard-00004.zip.*same command"
        ) as told:
            prepare(table, out, shard_rows=4, workers=workers)
    assert told.value.exit_code == 1
    assert not list((out / "preparing").glob("*.partial-*")) and not (out / "set.json").exists()
    assert len(list((out / "preparing").glob("rows-*"))) >= 4 - workers
    prepare(table, out, shard_rows=4, workers=workers)
    prepare(table, tmp_path / "whole", shard_rows=4)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_process_that_dies_names_the_picture(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    table = FolderSource(str(pictures)).training()
    read = Table.read

    def crash(self: Table, row: int) -> bytes:
        if row == 9:
            os.kill(os.getpid(), signal.SIGSEGV)
        return read(self, row)

    monkeypatch.setattr(Table, "read", crash)
    with pytest.raises(DataError, match=rf"{table.identity(9)}.*workers=N"):
        prepare(table, tmp_path / "out", shard_rows=4, workers=2)


def test_one_run_at_a_time(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    import lgrep.data.preparing.run as module

    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    (tmp_path / "out" / "preparing").mkdir(parents=True)
    with (tmp_path / "out" / "preparing" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process"):
            prepare(FolderSource(str(pictures)).training(), tmp_path / "out")


def test_the_command_line(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prepare_data import prepare_data

    shutil.copy(pictures / "class_a" / "caption_1" / "0.png", pictures / "class_a" / "caption_1" / "copy.jpg")
    arguments = ["source=folder", f"root={pictures}", f"out={tmp_path}/set", "size=16", "data.limit=20", "workers=0"]
    assert run("prepare", "", prepare_data, spelled_out(arguments)) == 0
    printed = capsys.readouterr()
    assert "20 pictures, 20 captions in 1 shards" in printed.out and f"data.root={tmp_path}/set" in printed.out
    assert "20/20 pictures" in printed.err
    assert min(decode(open_set(tmp_path / "set").read(0)).size) == 16
    for arguments, code, message in (
        (["out=x"], 2, "nothing is chosen: type data=NAME"),
        (["data=folder", "root=nowhere", "out=x"], 3, "nowhere does not exist"),
        (["data=folder", f"root={pictures}"], 2, "out: a value is needed"),
        (["data=foldr", "out=x"], 2, "did you mean 'folder'"),
        (["data=folder", f"root={pictures}", "out=x", "qualty=3"], 2, "did you mean 'quality'"),
    ):
        assert run("prepare", "", prepare_data, spelled_out(arguments)) == code
        printed = capsys.readouterr().err
        assert message in printed and "Traceback" not in printed


def test_help_names_the_choices() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "folder" in done.stdout and "cc12m" in done.stdout.split("make:")[1]


def test_progress_tells_rate_and_time_left() -> None:
    assert describe(100, 20, 0, 1.0, "pictures") == "20/100 pictures  0/s"
    assert describe(100, 20, 40, 2.0, "pictures") == "60/100 pictures  20/s  ETA 0:00:02"
