"""Damaged picture sets in the project's format: refused before training, with the file and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made import encoded

from lgrep.data.shards import verify_set, write_set
from lgrep.data.sources import ShardSource
from lgrep.errors import DataError

Change = Callable[[Path], object]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    schema = pa.schema({"id": pa.string(), "group": pa.int32(), "label": pa.int32()})
    rows = [({"id": f"{i}.png", "group": i // 2, "label": i % 2}, encoded(i)) for i in range(8)]
    texts = [{"id": str(i), "text": f"caption {i}"} for i in range(4)]
    captions = pa.schema({"id": pa.string(), "text": pa.string()})
    return write_set(tmp_path / "set", "toy", rows, texts, schema, captions, shard_bytes=12_000)


def describe(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        about = json.loads((folder / "set.json").read_text())
        (folder / "set.json").write_text(json.dumps({**about, **changes}))

    return change


def column(name: str, values: list[Any] | None, file: str = "pictures.arrow") -> Change:
    """Replace a column, or drop it."""

    def change(folder: Path) -> None:
        table = pa.ipc.open_file((folder / file).read_bytes()).read_all()
        place = table.column_names.index(name)
        table = table.remove_column(place) if values is None else table.set_column(place, name, pa.array(values))
        with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    return change


def cut(file: str, length: int) -> Change:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:length])


BROKEN_SETS: dict[str, tuple[Change, str]] = {
    "no set.json": (lambda f: (f / "set.json").unlink(), "it has no set.json"),
    "set.json cut": (cut("set.json", 20), "set.json is damaged: "),
    "set.json binary": (lambda f: (f / "set.json").write_bytes(b"\xff\xfe\xfd"), "set.json is damaged: "),
    "set.json a number": (lambda f: (f / "set.json").write_text("7"), "set.json is damaged: it holds no mapping"),
    "set.json short": (lambda f: (f / "set.json").write_text('{"format": 1}'), "it lacks content_hash, name, shards"),
    "version": (describe(format=99), "is in format 99; this version of lgrep reads format 1"),
    "shards no list": (describe(shards=3), "set.json is damaged: shards"),
    "shards elsewhere": (describe(shards=["../x.zip"]), "set.json is damaged: shards"),
    "other counts": (describe(pictures=9), "pictures.arrow has 8 rows, set.json says 9"),
    "shard missing": (lambda f: (f / "shard-00000.zip").unlink(), "missing shard file: .*shard-00000.zip"),
    "shard cut": (cut("shard-00000.zip", 3000), r"shard-00000.zip is cut short: it has 3,000 bytes and its pictures "
                  r"need 1\d,\d{3}; [34] of 8 pictures of the set are lost"),
    "shard empty": (cut("shard-00001.zip", 0), "shard-00001.zip is cut short: it has 0 bytes"),
    "arrow missing": (lambda f: (f / "captions.arrow").unlink(), "cannot read .*captions.arrow"),
    "arrow cut": (cut("pictures.arrow", 300), "cannot read .*pictures.arrow: .*Copy the set again"),
    "arrow text": (lambda f: (f / "pictures.arrow").write_text("x"), "cannot read .*pictures.arrow"),
    "no group": (column("group", None), "pictures.arrow lacks the column group; it has id, label, shard, offset, size"),
    "no text": (column("text", None, "captions.arrow"), "captions.arrow lacks the column text; it has id"),
    "group of text": (column("group", ["0"] * 8), "the column group holds string, it must hold integers"),
    "group of nulls": (column("group", [0] * 7 + [None]), "the column group has 1 nulls"),
    "group unsorted": (column("group", [1, 0, 2, 2, 3, 3, 3, 3]), "must be ordered by 'group'"),
    "group too high": (column("group", [0] * 7 + [4]), r"1 of 8 pictures have a group outside 0..3 .*found 0..4"),
    "group negative": (column("group", [-1] + [0] * 7), r"1 of 8 pictures have a group outside 0..3"),
    "offset beyond": (column("offset", [10**9] * 8), "is cut short: .*8 of 8 pictures of the set are lost"),
    "offset negative": (column("offset", [-1] + [30] * 7), "1 pictures have a negative offset or size"),
    "size a float": (column("size", [1.5] * 8), "the column size holds double, it must hold integers"),
    "shard unknown": (column("shard", [0] * 7 + [9]), r"1 of 8 pictures have a shard outside 0..1"),
    "label text": (column("label", ["cat"] * 8), "the column label holds string, it must hold integers"),
    "label negative": (column("label", [-2] * 8), r"8 of 8 pictures have a label outside -1.."),
    "text null": (column("text", ["a", None, "b", "c"], "captions.arrow"), "the column text has 1 nulls"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_SETS)
def test_a_broken_set_is_refused(shards: Path, name: str) -> None:
    assert len(ShardSource(str(shards)).training()) == 8
    change, message = BROKEN_SETS[name]
    change(shards)
    with pytest.raises(DataError, match=message) as caught:
        ShardSource(str(shards)).training()
    assert len(str(caught.value).replace(str(shards), "")) < 260


def flip_last_bit(folder: Path) -> None:
    data = bytearray((folder / "shard-00000.zip").read_bytes())
    data[100] ^= 1
    (folder / "shard-00000.zip").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_last_bit, "the content has hash [0-9a-f]{16}, set.json says .*data.verify=false"),
        (describe(content_hash="0" * 16), "set.json says 0000000000000000"),
        (column("id", ["a.png"] * 8), "7 of 8 pictures repeat the id of another"),
    ],
)
def test_changed_content_is_found_on_request(shards: Path, change: Change, message: str) -> None:
    verify_set(shards)
    change(shards)
    assert len(ShardSource(str(shards)).training()) == 8
    with pytest.raises(DataError, match=message):
        ShardSource(str(shards), verify=True).training()


def test_random_damage_to_the_tables_is_a_data_error_or_harmless(shards: Path) -> None:
    rng = np.random.default_rng(0)
    whole = {name: (shards / name).read_bytes() for name in ("pictures.arrow", "captions.arrow", "set.json")}
    refused = 0
    for _ in range(300):
        name = str(rng.choice(list(whole)))
        data = bytearray(whole[name])
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        (shards / name).write_bytes(data)
        try:
            table = ShardSource(str(shards)).training()
        except DataError:
            refused += 1
        else:
            assert all(table.caption(row) is not None and table.identity(row) is not None for row in range(8))
        (shards / name).write_bytes(whole[name])
    assert refused > 30
    assert re.fullmatch(r"[0-9a-f]{16}", ShardSource(str(shards)).training().content_hash)
