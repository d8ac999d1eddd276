"""The on-disk picture set: what `write_set` writes, `open_set` reads and `Table.select` keeps."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import operator
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lgrep.data import arrow_files, checks
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


# Sharing by processes, and old and damaged sets


def test_first_rows_are_stored_and_are_a_view_of_the_memory_map(folder: Path, table: Table) -> None:
    first = pa.ipc.open_file(str(folder / "captions.arrow")).read_all()["first"].to_pylist()
    assert first == [0, 3, 4, 4, 6]
    assert not table._first.flags.owndata
    assert table.counts.tolist() == MEMBERS


def without_first(folder: Path) -> None:
    """As earlier versions wrote it."""
    table = pa.ipc.open_file((folder / "captions.arrow").read_bytes()).read_all().drop_columns(["first"])
    with pa.OSFile(str(folder / "captions.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def test_sets_without_first_rows_open(folder: Path) -> None:
    members = [list(open_set(folder).members(group)) for group in range(5)]
    without_first(folder)
    old = open_set(folder)
    assert [list(old.members(group)) for group in range(5)] == members
    assert pickle.loads(pickle.dumps(old)).counts.tolist() == MEMBERS
    assert old.select([2, 9]).counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    "first", [[0, 3, 4, 4, 5], [0, 3, 3, 4, 6], [1, 3, 4, 4, 6], [0, 3, 4, 4, 11], [0, 3, 4, 2, 6]]
)
def test_first_rows_that_contradict_the_groups_are_refused(folder: Path, first: list[int]) -> None:
    table = pa.ipc.open_file((folder / "captions.arrow").read_bytes()).read_all()
    table = table.set_column(table.column_names.index("first"), "first", pa.array(first, pa.int64()))
    with pa.OSFile(str(folder / "captions.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"column first of captions\.arrow contradicts"):
        open_set(folder)


def test_checks_in_blocks_find_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_BLOCK", 2)
    test_first_rows_that_contradict_the_groups_are_refused(folder, [0, 3, 4, 4, 7])
    with pytest.raises(DataError, match="ordered by 'group'"):
        checks.check_first("x", np.array([0, 2]), np.array([0, 0, 1, 0]))


def test_a_table_from_a_folder_travels_without_its_rows(tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 20_000)
    table = open_set(folder)
    table.column("group"), table.read(3)
    assert len(pickle.dumps(table)) < 2500
    copy = pickle.loads(pickle.dumps(table))
    assert copy.caption(19_999) == "caption 9999" and copy.read(7) == b"\7" * 3
    assert not copy.store.offset.flags.owndata and not copy._first.flags.owndata


def many(folder: Path, pictures: int) -> Path:
    rows = (({"id": f"picture {i}", "group": i // 2}, bytes([i % 256]) * 3) for i in range(pictures))
    captions = pa.table(
        {"id": [str(i) for i in range(pictures // 2)], "text": [f"caption {i}" for i in range(pictures // 2)]}
    )
    schema = pa.schema({"id": pa.string(), "group": pa.int32()})
    return write_set(folder, "many", rows, captions, schema, captions.schema)


def test_a_large_selection_travels_through_one_file_that_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_files, "_SMALL", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    part = open_set(many(tmp_path / "many", 2000)).select(range(1, 2000, 2))
    data = pickle.dumps(part)
    files = sorted(tmp_path.glob("lgrep-shared-*"))
    assert len(data) < 3000 and len(files) == 6
    assert len(pickle.dumps(part)) == len(data) and sorted(tmp_path.glob("lgrep-shared-*")) == files
    copy = pickle.loads(data)
    again = pickle.loads(pickle.dumps(copy))
    for other in (copy, again):
        assert [other.caption(row) for row in (0, 999)] == ["caption 0", "caption 999"]
        assert [other.identity(row) for row in (0, 999)] == ["picture 1", "picture 1999"]
        assert other.read(500) == part.read(500) and other.group.tolist() == list(range(1000))
    del part
    gc.collect()
    assert not list(tmp_path.glob("lgrep-shared-*"))
    assert copy.caption(5) == "caption 5", "what is mapped stays readable"
    assert pickle.loads(pickle.dumps(copy)).caption(5) == "caption 5"


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_files, "_SMALL", 1000)
    part = open_set(many(tmp_path / "many", 2000)).select(range(1500))

    def full(path: Path, table: pa.Table) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(arrow_files, "write_arrow", full)
    with pytest.raises(DataError, match=r"No space left on device.*TMPDIR.*loader\.workers=0"):
        pickle.dumps(part)


def test_texts_beyond_32_bit_offsets_become_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_files, "_MOST_TEXT", 50)
    table = pa.table({"id": ["a" * 9] * 9, "n": [1] * 9, "texts": [["b" * 9]] * 9})
    arrow_files.write_arrow(tmp_path / "x.arrow", table)
    found = arrow_files.map_arrow(tmp_path / "x.arrow")
    assert found.schema.types == [pa.large_string(), pa.int64(), pa.large_list(pa.large_string())]
    assert found.to_pylist() == table.to_pylist()


def test_damaged_texts_are_read_with_replacements(folder: Path) -> None:
    data = (folder / "captions.arrow").read_bytes()
    (folder / "captions.arrow").write_bytes(data.replace("caption 3 “".encode(), "caption 3 “".encode()[:-1] + b"\xff"))
    assert open_set(folder).caption(4).startswith("caption 3 �")


def test_several_captions_of_a_picture(tmp_path: Path) -> None:
    schema = pa.schema({"id": pa.string(), "text": pa.string(), "texts": pa.list_(pa.string())})
    captions = [{**row, "texts": [row["text"], "other"] if i else []} for i, row in enumerate(caption_rows())]
    table = open_set(write_set(tmp_path / "x", "x", picture_rows(), captions, PICTURES, schema))
    assert table.texts(0) == [table.caption(0)]
    assert table.texts(9) == [table.caption(9), "other"]
    assert pickle.loads(pickle.dumps(table.select([9]))).texts(0) == table.texts(9)


def test_a_picture_of_absurd_size_is_not_read(folder: Path) -> None:
    table = open_set(folder)
    table.store.size = np.full(10, 2**31 - 1, np.int32)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="more than the limit of"):
        table.read(0)


def test_few_shards_stay_open(folder: Path) -> None:
    table = open_set(folder)
    files = table.store._files  # type: ignore[attr-defined]
    files.limit = 1
    for row in (0, 9, 0, 9, 5):
        assert table.read(row) == picture_rows()[row][1]
        assert len(files._handles) == 1
