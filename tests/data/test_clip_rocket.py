"""CC3M, CC12M and YFCC15M as CLIP-rocket and SLIP lay them out."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import encoded
from published import TEXTS, YFCC, cc3m, cc12m, jpeg, object_array, yfcc15m

from lgrep.data.sources import ClipRocketSource
from lgrep.data.table import Table
from lgrep.errors import DataError


def opened(folder: Path, layout: str, **settings: Any) -> Table:
    kind = "pkl" if layout == "yfcc15m" else "npy"
    source = ClipRocketSource(str(folder / f"{layout}.{kind}"), str(folder / "pictures"), layout, **settings)  # type: ignore[arg-type]
    assert source.probe() is None
    return source.training()


def test_cc3m(tmp_path: Path) -> None:
    table = opened(cc3m(tmp_path), "cc3m")
    assert len(table) == table.num_groups == 12
    for row in range(12):
        assert table.identity(row) == f"train/{row}_{1000 + row}"
        assert table.read(row) == encoded(row)
        assert table.texts(row) == [table.caption(row)] == [TEXTS[row % 6]]
        assert list(table.members(row)) == [row] and table.caption_row(row) == row
    assert "texts" not in table.captions.column_names


def test_cc12m_has_all_captions(tmp_path: Path) -> None:
    table = opened(cc12m(tmp_path), "cc12m")
    for row in range(12):
        assert table.read(row) == jpeg(row) and table.identity(row) == f"{row:09d}.jpg"
        assert table.texts(row) == [f"{TEXTS[row % 6]} {i}" for i in range(1 + row % 3)]
    part = table.select([1, 5])
    assert part.texts(1) == table.texts(5) and part.read(1) == table.read(5)


@pytest.mark.parametrize("images", ["images/", ""])
def test_yfcc15m_in_zips(tmp_path: Path, images: str) -> None:
    table = opened(yfcc15m(tmp_path, images), "yfcc15m")
    assert [table.identity(row) for row in range(len(table))] == [f"{index:08d}" for index in YFCC]
    for row in range(len(YFCC)):
        assert table.read(row) == jpeg(row)
        expected = [[""], ["title"], ["description"], ["title é", "description"]][row % 4]
        assert table.texts(row) == expected and table.caption(row) == expected[0]
    assert table.store.locate(2).endswith(f"{images}12/345.zip/678.jpg")
    dropped = opened(tmp_path, "yfcc15m", empty="drop", max_left_out=0.5)
    assert len(dropped) == 6 and dropped.caption(0) == "title" and dropped.read(0) == jpeg(1)


def test_the_index_is_used_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lgrep.data.sources.clip_rocket as module

    first = opened(cc12m(tmp_path), "cc12m")
    with monkeypatch.context() as patched:
        patched.setattr(module, "records", lambda path: pytest.fail("read again"))
        again = opened(tmp_path, "cc12m")
    assert again.content_hash == first.content_hash and again.texts(5) == first.texts(5)
    np.save(tmp_path / "cc12m.npy", object_array([{"image_name": "000000003.jpg", "captions": ["new"]}]))
    changed = opened(tmp_path, "cc12m")
    assert len(changed) == 1 and changed.read(0) == jpeg(3) and changed.content_hash != first.content_hash


def test_a_table_travels_to_spawned_workers_by_its_files(tmp_path: Path) -> None:
    for layout, make in (("cc12m", cc12m), ("yfcc15m", yfcc15m)):
        table = opened(make(tmp_path / layout), layout)
        data = pickle.dumps(table)
        copy = pickle.loads(data)
        assert [copy.read(row) for row in range(len(table))] == [table.read(row) for row in range(len(table))]
        assert copy.texts(3) == table.texts(3)


def test_where_the_index_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cc3m(tmp_path / "set")
    opened(folder, "cc3m", index=str(tmp_path / "elsewhere"))
    assert not (folder / ".lgrep-index").exists() and list((tmp_path / "elsewhere").glob("cc3m-*/index.json"))
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("LGREP_CACHE", str(tmp_path / "cache"))
    opened(folder, "cc3m")
    assert list((tmp_path / "cache").glob("cc3m-*/index.json"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Type data.index=DIR"):
        opened(folder, "cc3m", index=str(tmp_path / "file" / "below"))


def test_records_that_no_picture_can_be_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [{"image_id": f"ok{i}", "captions": [f"caption {i}", "", None]} for i in range(30)]
    bad: list[Any] = [
        {"image_id": "../../secret", "captions": ["x"]},
        {"image_id": "/etc/passwd", "captions": ["x"]},
        {"image_id": "a/../../b", "captions": ["x"]},
        {"image_id": "nul\0byte", "captions": ["x"]},
        {"image_id": "half \ud800", "captions": ["x"]},
        {"image_id": None, "captions": ["x"]},
        {"image_id": "", "captions": ["x"]},
        {"image_id": True, "captions": ["x"]},
        {"image_id": "a", "captions": [7]},
        {"image_id": "a", "captions": {"x": "y"}},
        {"image_id": "a"},
        ("a", "b"),
        "text",
        None,
    ]
    odd = [
        {"image_id": 17, "captions": "one text"},
        {"image_id": "empty", "captions": []},
        {"image_id": "none", "captions": None},
        {"image_id": "unicode", "captions": [" cafe\u0301 \ud800 ", "\u200b"]},
        {"image_id": "ok3", "captions": ["again"]},
    ]
    (tmp_path / "pictures").mkdir()
    for record in good:
        (tmp_path / "pictures" / record["image_id"]).write_bytes(b"x")
    np.save(tmp_path / "cc3m.npy", object_array([*good, *bad, *odd]), allow_pickle=True)
    with pytest.raises(DataError, match=r"14 of 49 records .* more than data.max_left_out=0.1: .*data.max_left_out=1"):
        opened(tmp_path, "cc3m")
    table = opened(tmp_path, "cc3m", max_left_out=1)
    said = capsys.readouterr().err
    assert "14 of 49 records" in said and "leaves the folder" in said and "1 of 35 records" in said
    assert [table.identity(row) for row in range(30, 35)] == ["17", "empty", "none", "unicode", "ok3"]
    assert [table.texts(row) for row in range(30, 35)] == [["one text"], [""], [""], ["café \ufffd"], ["again"]]
    assert table.texts(0) == ["caption 0"]
    assert str(opened(tmp_path, "cc3m", max_left_out=1).store.locate(30)) == str(tmp_path / "pictures" / "17")
    assert "14 of 49 records" in capsys.readouterr().err, "said again when the index is used"


def test_indices_out_of_range(tmp_path: Path) -> None:
    yfcc15m(tmp_path)
    records = pickle.loads((tmp_path / "yfcc15m.pkl").read_bytes())
    bad = [(100_000_000, "t", "d"), (-1, "t", "d"), ("12345678", "t", "d"), (1.0, "t", "d"), (True, "t", "d"), (1, "t")]
    (tmp_path / "yfcc15m.pkl").write_bytes(pickle.dumps(records + bad))
    assert len(opened(tmp_path, "yfcc15m", max_left_out=1)) == len(YFCC)


def test_missing_pictures_and_files(tmp_path: Path) -> None:
    folder = cc3m(tmp_path / "set")
    with pytest.raises(DataError, match=r"data.metadata=.*npy cannot be read .*Type data.metadata=PATH"):
        ClipRocketSource(str(folder / "other.npy"), str(folder), "cc3m").training()
    with pytest.raises(DataError, match="holds none of .* pictures .* Point data.root=DIR"):
        ClipRocketSource(str(folder / "cc3m.npy"), str(tmp_path), "cc3m").training()
    (folder / "pictures" / "train" / "3_1003").unlink()
    table = opened(folder, "cc3m")
    assert len(table) == 12
    with pytest.raises(OSError):
        table.read(3)
    zips = yfcc15m(tmp_path / "zips")
    shutil.rmtree(zips / "pictures")
    (zips / "pictures").mkdir()
    with pytest.raises(DataError, match=r"e.g. .*00/000.zip"):
        opened(zips, "yfcc15m")


@pytest.mark.parametrize(("layout", "said"), [("cc3m", "holds none of 12 pictures"), ("yfcc15m", "12 of 12 records")])
def test_the_wrong_layout_is_told(tmp_path: Path, layout: str, said: str) -> None:
    cc12m(tmp_path)
    with pytest.raises(DataError, match=said):
        ClipRocketSource(str(tmp_path / "cc12m.npy"), str(tmp_path), layout, max_left_out=1).training()  # type: ignore[arg-type]


def test_an_empty_list(tmp_path: Path) -> None:
    np.save(tmp_path / "cc3m.npy", object_array([]), allow_pickle=True)
    with pytest.raises(DataError, match="holds no picture"):
        ClipRocketSource(str(tmp_path / "cc3m.npy"), str(tmp_path), "cc3m").training()


def test_parquet_and_json_with_the_same_columns(tmp_path: Path) -> None:
    cc12m(tmp_path)
    records = [{"image_name": f"{i:09d}.jpg", "captions": [f"caption {i}"]} for i in range(12)]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet", row_group_size=5)
    (tmp_path / "a.json").write_text(__import__("json").dumps(records))
    tables = [
        ClipRocketSource(str(tmp_path / name), str(tmp_path / "pictures"), "cc12m").training()
        for name in ("a.parquet", "a.json")
    ]
    assert tables[0].content_hash == tables[1].content_hash
    assert [table.texts(11) for table in tables] == [["caption 11"]] * 2 and tables[0].read(11) == jpeg(11)
    damaged = (tmp_path / "a.parquet").read_bytes()[:-9]
    (tmp_path / "a.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match="damaged Parquet"):
        ClipRocketSource(str(tmp_path / "a.parquet"), str(tmp_path), "cc12m").training()


def test_batches_of_rows_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lgrep.data.caption_index as index

    whole = opened(cc12m(tmp_path, 40), "cc12m", index=str(tmp_path / "one"))
    monkeypatch.setattr(index, "_ROWS", 7)
    pieces = opened(tmp_path, "cc12m", index=str(tmp_path / "two"))
    assert whole.content_hash == pieces.content_hash
    assert whole.pictures.equals(pieces.pictures) and whole.captions.equals(pieces.captions)


def test_a_broken_index_is_made_again(tmp_path: Path) -> None:
    first = opened(cc3m(tmp_path), "cc3m")
    folder = next((tmp_path / ".lgrep-index").iterdir())
    for damage in (lambda: (folder / "index.json").write_text("{"), lambda: (folder / "pictures.arrow").unlink()):
        damage()
        assert opened(tmp_path, "cc3m").content_hash == first.content_hash


def test_without_metadata_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captions of cc12m are not there yet.*Type data.metadata=FILE; docs"):
        ClipRocketSource(None, str(tmp_path), "cc12m").training()
