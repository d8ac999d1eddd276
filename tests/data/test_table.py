"""The on-disk picture set: what `write_set` writes, `open_set` reads and `Table.select` keeps."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import operator
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lgrep.data.shards import write_set
from lgrep.data.table import Table, open_set
from lgrep.errors import DataError

MEMBERS = [3, 1, 0, 2, 4]  # pictures per caption; one caption has none
WORD = pa.dictionary(pa.int8(), pa.string())
PICTURES = pa.schema({"id": pa.string(), "group": pa.int32(), "label": pa.int32(), "designer": WORD})
CAPTIONS = pa.schema({"id": pa.string(), "text": pa.string(), "embedding": pa.list_(pa.float16(), 3)})


def picture_rows() -> list[tuple[dict[str, Any], bytes]]:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(len(MEMBERS)), MEMBERS)
    return [
        (
            {"id": f"{group}/{i}.bin", "group": int(group), "label": i % 3 - 1, "designer": "ab"[i % 2]},
            rng.bytes(20 + 7 * i),
        )
        for i, group in enumerate(groups)
    ]


def caption_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"c{i}", "text": f"caption {i} “é”", "embedding": np.array([i, i / 2, -i], np.float16)}
        for i in range(len(MEMBERS))
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(
        tmp_path / "set", "toy", picture_rows(), caption_rows(), PICTURES, CAPTIONS, 150, {"licence": "CC0-1.0"}
    )


@pytest.fixture
def table(folder: Path) -> Table:
    return open_set(folder)


def test_pictures_and_captions_come_back(table: Table) -> None:
    rows = picture_rows()
    assert len(table) == len(rows)
    assert table.num_groups == len(MEMBERS)
    for i, (columns, data) in enumerate(rows):
        assert table.read(i) == data
        assert table.identity(i) == columns["id"]
        assert table.caption(i) == f"caption {columns['group']} “é”"
    assert table.column("designer").tolist() == [columns["designer"] for columns, _ in rows]
    assert table.column("label").tolist() == [columns["label"] for columns, _ in rows]
    embeddings = table.caption_column("embedding")
    assert embeddings.shape == (len(MEMBERS), 3)
    assert embeddings.dtype == np.float16
    assert embeddings[3].tolist() == [3, 1.5, -3]


def test_members_are_the_rows_of_a_caption(table: Table) -> None:
    for group, count in enumerate(MEMBERS):
        members = table.members(group)
        assert len(members) == count
        assert [row for row in range(len(table)) if table.group[row] == group] == list(members)


def test_numbers_are_views_of_the_memory_map(table: Table) -> None:
    assert not table.column("label").flags.writeable
    assert not table.column("label").flags.owndata


def test_shards_are_plain_stored_zip_files(folder: Path, table: Table) -> None:
    about = json.loads((folder / "set.json").read_text())
    assert len(about["shards"]) > 1, "the shard limit must have started new shards"
    members: dict[str, bytes] = {}
    for name in about["shards"]:
        with zipfile.ZipFile(folder / name) as archive:
            assert archive.testzip() is None
            assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
            members |= {info.filename: archive.read(info) for info in archive.infolist()}
    assert members == {table.identity(i): table.read(i) for i in range(len(table))}


def test_set_json_has_counts_hash_and_extra(folder: Path, table: Table) -> None:
    about = json.loads((folder / "set.json").read_text())
    assert (about["pictures"], about["captions"], about["licence"]) == (sum(MEMBERS), len(MEMBERS), "CC0-1.0")
    digest = hashlib.sha256()
    for _, data in picture_rows():
        digest.update(hashlib.sha256(data).digest())
    for name in ("pictures.arrow", "captions.arrow"):
        digest.update((folder / name).read_bytes())
    assert table.content_hash == about["content_hash"] == digest.hexdigest()[:16]


def test_equal_input_gives_equal_files(folder: Path, tmp_path: Path) -> None:
    again = write_set(tmp_path / "again", "toy", picture_rows(), caption_rows(), PICTURES, CAPTIONS, 150)
    for name in ("pictures.arrow", "captions.arrow", "shard-00000.zip", "shard-00001.zip"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_select_renumbers_groups_and_keeps_bytes(table: Table) -> None:
    picked = [9, 2, 4, 2, 8]
    part = table.select(picked)
    rows = picture_rows()
    assert len(part) == 4
    assert [part.identity(i) for i in range(4)] == [rows[i][0]["id"] for i in (2, 4, 8, 9)]
    assert [part.read(i) for i in range(4)] == [rows[i][1] for i in (2, 4, 8, 9)]
    assert [part.caption(i) for i in range(4)] == [table.caption(i) for i in (2, 4, 8, 9)]
    assert part.group.tolist() == [0, 1, 2, 2]
    assert part.caption_column("id").tolist() == ["c0", "c3", "c4"]
    assert part.caption_column("embedding")[:, 0].tolist() == [0, 3, 4]
    assert part.column("designer").tolist() == table.column("designer")[[2, 4, 8, 9]].tolist()
    assert [len(part.members(group)) for group in range(part.num_groups)] == [1, 1, 2]


def test_select_of_a_selection_equals_one_selection(table: Table) -> None:
    twice = table.select([1, 3, 5, 7, 9]).select([0, 2, 4])
    assert [twice.identity(i) for i in range(3)] == [table.identity(i) for i in (1, 5, 9)]
    assert [twice.read(i) for i in range(3)] == [table.read(i) for i in (1, 5, 9)]


def test_select_names_its_content(table: Table) -> None:
    assert table.select([1, 2]).content_hash == table.select([2, 1]).content_hash
    assert len({table.content_hash, table.select([1, 2]).content_hash, table.select([1, 3]).content_hash}) == 3


def test_select_nothing(table: Table) -> None:
    nothing = table.select([])
    assert (len(nothing), nothing.num_groups) == (0, 0)


@pytest.mark.parametrize("rows", [range(10), [0, 5, 9]])
def test_a_table_travels_to_a_worker_process(table: Table, rows: list[int]) -> None:
    part = table.select(rows)
    part.read(0)  # an open memory map must not hinder the pickle
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        last = len(part) - 1
        assert pool.apply(operator.methodcaller("read", last), (part,)) == part.read(last)
        assert pool.apply(operator.methodcaller("caption", last), (part,)) == part.caption(last)


def test_a_folder_without_set_json_is_no_set(folder: Path) -> None:
    (folder / "set.json").unlink()
    with pytest.raises(DataError, match=r"set\.json"):
        open_set(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    about = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        open_set(folder)


@pytest.mark.parametrize("name", ["shard-00001.zip", "pictures.arrow", "captions.arrow"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        open_set(folder)


def test_a_shard_that_shrinks_later_is_noticed_at_the_picture(folder: Path) -> None:
    table = open_set(folder)
    data = (folder / "shard-00000.zip").read_bytes()
    (folder / "shard-00000.zip").write_bytes(data[:60])
    with pytest.raises(ValueError, match=r"shard-00000\.zip"):
        table.read(1)


def test_unordered_pictures_are_refused_when_written_and_when_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="groups must ascend"):
        write_set(tmp_path / "bad", "bad", picture_rows()[::-1], caption_rows(), PICTURES, CAPTIONS)
    assert not (tmp_path / "bad" / "set.json").exists()
    table = open_set(write_set(tmp_path / "good", "good", picture_rows(), caption_rows(), PICTURES, CAPTIONS))
    backwards = table.pictures.take(list(range(len(table)))[::-1])
    with pytest.raises(DataError, match="ordered by 'group'"):
        Table(backwards, table.captions, table.store, "bad", "")


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    rows = picture_rows()
    with pytest.raises(DataError, match="occurs twice"), pytest.warns(UserWarning, match="Duplicate name"):
        write_set(tmp_path / "bad", "bad", [rows[0], rows[0]], caption_rows(), PICTURES, CAPTIONS)


def test_a_damaged_description_is_named(folder: Path) -> None:
    (folder / "set.json").write_text("{")
    with pytest.raises(DataError, match=r"set\.json is damaged"):
        open_set(folder)
    (folder / "set.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="lacks content_hash"):
        open_set(folder)
