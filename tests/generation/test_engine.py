"""The engine: the same bytes whoever draws, however often it is interrupted; faults are recorded and survived."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generation import tiny
from PIL import Image

from lgrep.data.shards import verify_set
from lgrep.data.sources import WebDataset
from lgrep.data.table import open_set
from lgrep.errors import DataError, LgrepError
from lgrep.generation.engine import Engine, lowered_batches
from lgrep.generation.manifest import Manifest, Selection
from lgrep.generation.noise import Key, first_noise
from lgrep.generation.storage import Storage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A set of 8 captions and 2 pictures each, made by one process without interruptions."""
    engine = tiny.engine(tmp_path_factory.mktemp("whole"))
    engine.run(2)
    Manifest(engine.storage, engine.plan, Selection(2)).write()
    return engine.folder, tiny.shards(engine.folder)


def work(out: Path, pictures: int, worker: tuple[int, int]) -> None:
    engine = tiny.engine(out)
    Engine(engine.folder, engine.plan, engine.painter, worker, engine.claims).run(pictures)


def started(out: Path, pictures: int, count: int) -> list[Any]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(out, pictures, (number, count))) for number in range(count)]
    for process in processes:
        process.start()
    return processes


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_processes_make_the_same_set(tmp_path: Path, whole: tuple[Path, dict[str, bytes]], kills: int) -> None:
    rng = random.Random(kills)
    tiny.shared_pipeline()
    processes = started(tmp_path, 2, 4)
    for _ in range(kills):
        time.sleep(rng.uniform(0.02, 0.3))
        victim = rng.randrange(4)
        with contextlib.suppress(ProcessLookupError):  # it may be done already
            os.kill(processes[victim].pid, signal.SIGKILL)
        processes[victim].join()
        processes[victim] = started(tmp_path, 2, 1)[0]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    engine = tiny.engine(tmp_path)
    Manifest(engine.storage, engine.plan, Selection(2)).write()
    assert engine.folder.name == whole[0].name
    assert tiny.shards(engine.folder) == whole[1]
    for name in ("pictures.arrow", "captions.arrow", "set.json"):
        assert (engine.folder / name).read_bytes() == (whole[0] / name).read_bytes()


def test_a_set_can_be_read_and_tells_how_it_was_made(whole: tuple[Path, dict[str, bytes]]) -> None:
    verify_set(whole[0])
    table = open_set(whole[0])
    assert (len(table), table.num_groups, table.counts.tolist()) == (16, 8, [2] * 8)
    assert table.caption(3) == "a blue cat" and table.column("index").tolist() == [0, 1] * 8
    pictures = [np.asarray(Image.open(io.BytesIO(table.read(row)))) for row in range(16)]
    assert {picture.shape for picture in pictures} == {(16, 16, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 16
    assert set(table.column("guidance_scale")) == {2.0}


def test_the_tar_files_tell_the_same_to_other_readers(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    ours = open_set(whole[0])
    other = WebDataset(str(whole[0]), group="caption", index=str(tmp_path)).training()
    theirs = {other.identity(row).rpartition("/")[2]: row for row in range(len(other))}
    assert len(theirs) == len(ours) == 16 and other.num_groups == 8
    for row in range(len(ours)):
        same = theirs[f"{ours.identity(row)}.png"]
        assert other.read(same) == ours.read(row) and other.caption(same) == ours.caption(row)


def test_pictures_are_those_of_the_pipeline_called_by_hand(whole: tuple[Path, dict[str, bytes]]) -> None:
    pipe = tiny.shared_pipeline()
    texts, ids = ["a red cat", "a blue cat"], ["c0", "c1"]
    noise = first_noise([Key(0, name, 1) for name in ids], (4, 8, 8))
    expected = pipe(
        texts, num_inference_steps=2, guidance_scale=2.0, latents=noise, height=16, width=16, output_type="np"
    )
    table = open_set(whole[0])
    for number, caption in enumerate(ids):
        row = table.members(number)[1]
        found = np.asarray(Image.open(io.BytesIO(table.read(row)))) / 255
        assert np.abs(found - expected.images[number]).max() <= 1.01 / 255, caption


def test_more_pictures_leave_the_first_untouched(tmp_path: Path, whole: tuple[Path, dict[str, bytes]]) -> None:
    engine = tiny.engine(tmp_path)
    engine.run(1)
    first = {name: (engine.folder / name).stat().st_mtime_ns for name in tiny.shards(engine.folder)}
    Manifest(engine.storage, engine.plan, Selection(1)).write()
    assert len(open_set(engine.folder)) == 8
    more = tiny.engine(tmp_path, tiny.settings(images_per_caption=2))
    assert more.folder == engine.folder
    more.run(2)
    Manifest(more.storage, more.plan, Selection(2)).write()
    assert {name: (engine.folder / name).stat().st_mtime_ns for name in first} == first
    assert tiny.shards(more.folder) == whole[1]
    assert (more.folder / "set.json").read_bytes() == (whole[0] / "set.json").read_bytes()


@pytest.mark.parametrize("where", ["middle", "end", "rows", "gone"])
def test_a_damaged_shard_is_made_again(tmp_path: Path, whole: tuple[Path, dict[str, bytes]], where: str) -> None:
    engine = tiny.engine(tmp_path)
    engine.run(2)
    victim = engine.folder / "shard-00001-0000.tar"
    if where == "middle":
        data = bytearray(victim.read_bytes())
        data[700] ^= 1
        victim.write_bytes(data)
    elif where == "end":
        victim.write_bytes(victim.read_bytes()[:-100])
    elif where == "rows":
        (engine.folder / "work" / "shards" / "shard-00001-0000.arrow").write_bytes(b"ARROW1?")
    else:
        victim.unlink()
    assert engine.storage.drop_damaged(engine.plan.shards(2)) == 1
    engine.run(2)
    assert tiny.shards(engine.folder) == whole[1]


def test_damaged_and_foreign_batches_are_drawn_again(tmp_path: Path, whole: tuple[Path, dict[str, bytes]]) -> None:
    engine = tiny.engine(tmp_path)
    shard = engine.plan.shards(2)[0]
    made: list[Any] = []
    for batch, _ in engine._passed(shard, 3, 0, list(shard.captions)):
        made.append(batch)
    parts = sorted((engine.folder / "work" / "parts").rglob("*.arrow"))
    assert len(parts) == 2  # five captions in batches of three
    data = bytearray(parts[0].read_bytes())
    data[len(data) // 2] ^= 255
    parts[0].write_bytes(data)
    parts[1].write_bytes(b"")
    engine.run(2)
    assert tiny.shards(engine.folder) == whole[1]
    assert not list((engine.folder / "work" / "parts").iterdir())


def test_out_of_memory_is_a_recorded_restart_with_half_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny.engine(tmp_path / "lowered", tiny.settings(batch_size=4))
    draw = engine.painter.__class__.__call__

    def small(self: Any, texts: Any, keys: Any, size: int) -> Any:
        if len(texts) > 1 and keys[0].index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(self, texts, keys, size)

    monkeypatch.setattr(engine.painter.__class__, "__call__", small)
    engine.run(2)
    lowered = lowered_batches(engine.folder)
    assert [(step["from"], step["to"], step["at"]) for step in lowered] == [
        (4, 2, "shard-00000-0001"), (2, 1, "shard-00000-0001")
    ]  # fmt: skip
    sizes = [engine.storage.finished(shard).batch_size for shard in engine.plan.shards(2)]  # type: ignore[union-attr]
    assert sizes == [4, 4, 1, 1]
    monkeypatch.setattr(engine.painter.__class__, "__call__", draw)
    single = tiny.engine(tmp_path / "single", tiny.settings(batch_size=1))
    single.run(2)
    ours, theirs = (_pixels(one) for one in (engine, single))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1  # the batch changes no more than rounding


def test_without_any_memory_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny.engine(tmp_path)

    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.painter.__class__, "__call__", never)
    with pytest.raises(LgrepError, match=r"generator\.vae_slicing=true"):
        engine.run(2)


def test_broken_pictures_are_drawn_again_from_other_noise(tmp_path: Path) -> None:
    first = {float(first_noise([Key(0, f"c{number}", 0)], (4, 8, 8)).flatten()[0]) for number in (1, 4)}
    values = iter([float("nan"), 0.0])

    def when(text: str, latents: np.ndarray) -> bool:
        return tiny.first_value(latents) in first

    engine = tiny.engine(tmp_path, pipe=tiny.faulty(tiny.pipeline(), when, lambda: next(values)))
    engine.run(1)
    table = Manifest(engine.storage, engine.plan, Selection(1)).write()
    assert table["pictures"] == 8 and table["generation"]["left_out"] == {}
    assert open_set(engine.folder).column("attempt").tolist() == [0, 1, 0, 0, 1, 0, 0, 0]
    records = [engine.storage.finished(shard) for shard in engine.plan.shards(1)]
    assert [record.drawn for record in records if record] == [7, 3]


def test_pictures_that_stay_broken_are_counted_and_left_out(tmp_path: Path) -> None:
    pipe = tiny.faulty(tiny.pipeline(), lambda text, _: text == "a red cat", lambda: 0.5)
    engine = tiny.engine(tmp_path, pipe=pipe)
    engine.run(1)
    about = Manifest(engine.storage, engine.plan, Selection(1)).write()
    assert about["generation"]["left_out"] == {"uniform": 1} and (about["pictures"], about["captions"]) == (7, 7)
    assert engine.storage.rows(engine.plan.shards(1)[0])["attempt"].to_pylist()[0] == 2
    verify_set(engine.folder)


def test_a_pipeline_that_draws_nothing_stops(tmp_path: Path) -> None:
    engine = tiny.engine(tmp_path, pipe=tiny.faulty(tiny.pipeline(), lambda *_: True, lambda: float("nan")))
    with pytest.raises(DataError, match=r"all 5 pictures of shard-00000-0000 are nan.*generator\.dtype=float32"):
        engine.run(1)


def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, dict[str, bytes]]
) -> None:
    engine = tiny.engine(tmp_path)
    write = Storage.write_part
    calls: list[str] = []

    def full(self: Any, shard: Any, *rest: Any) -> None:
        calls.append(shard.name)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        write(self, shard, *rest)

    monkeypatch.setattr(Storage, "write_part", full)
    with pytest.raises(LgrepError, match="No space left on device.*make room"):
        engine.run(2)
    assert [engine.storage.finished(shard) is not None for shard in engine.plan.shards(2)] == [True, True, False, False]
    assert not list(engine.folder.rglob("*partial*"))
    monkeypatch.undo()
    engine.run(2)
    assert tiny.shards(engine.folder) == whole[1]


def test_near_duplicates_and_a_smaller_selection_need_no_drawing(whole: tuple[Path, dict[str, bytes]]) -> None:
    engine = tiny.engine(whole[0].parents[1])
    before = (engine.folder / "set.json").read_bytes()
    about = Manifest(engine.storage, engine.plan, Selection(2, near_duplicates=64)).write()
    assert about["pictures"] == 8 and about["generation"]["left_out"] == {"near_duplicate": 8}
    assert open_set(engine.folder).column("index").tolist() == [0] * 8
    Manifest(engine.storage, engine.plan, Selection(2)).write()
    assert (engine.folder / "set.json").read_bytes() == before


def test_a_table_that_was_changed_is_written_again(whole: tuple[Path, dict[str, bytes]]) -> None:
    engine = tiny.engine(whole[0].parents[1])
    path = engine.folder / "pictures.arrow"
    right = path.read_bytes()
    path.write_bytes(right[:-8])
    Manifest(engine.storage, engine.plan, Selection(2)).write()
    assert path.read_bytes() == right
    assert json.loads((engine.folder / "set.json").read_text())["pictures"] == 16


def test_what_decides_the_bytes_decides_the_folder(tmp_path: Path) -> None:
    changed = [{"guidance_scale": 3.0}, {"steps": 3}, {"scheduler": "DDIMScheduler"}, {"negative_prompt": "dull"},
               {"size": 32}, {"codec": "jpeg"}, {"batch_size": 4}, {"dtype": "bfloat16"}]  # fmt: skip
    folders = [tiny.engine(tmp_path).folder, tiny.engine(tmp_path, seed=1).folder]
    folders += [
        tiny.engine(tmp_path, wanted=tiny.captions(7)).folder,
        tiny.engine(tmp_path, pipe=tiny.pipeline(1)).folder,
    ]
    folders += [tiny.engine(tmp_path, tiny.settings(**change), pipe=tiny.prepared(change)).folder for change in changed]
    assert len(set(folders)) == len(folders)
    assert tiny.engine(tmp_path, tiny.settings(images_per_caption=9), pipe=tiny.pipeline()).folder == folders[0]


def _pixels(engine: Engine) -> np.ndarray:
    Manifest(engine.storage, engine.plan, Selection(2)).write()
    table = open_set(engine.folder)
    return np.stack([np.asarray(Image.open(io.BytesIO(table.read(row)))) for row in range(len(table))])
