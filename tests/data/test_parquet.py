"""Parquet files and saved `datasets` folders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import encoded

from lgrep.data.sources import ParquetSource
from lgrep.errors import DataError

FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


def rows(count: int, start: int = 0) -> dict[str, Any]:
    numbers = range(start, start + count)
    return {
        "image": [{"bytes": encoded(i), "path": f"{i}.png"} for i in numbers],
        "caption": [f"caption {i}" for i in numbers],
        "label": [i % 2 for i in numbers],
        "url": [f"https://example.org/{i}" for i in numbers],
    }


def table_of(columns: dict[str, Any]) -> pa.Table:
    info = json.dumps({"info": {"features": FEATURES}}).encode()
    return pa.table(columns).replace_schema_metadata({b"huggingface": info})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for number in range(2):
        name = f"train-{number:05d}-of-00002.parquet"
        pq.write_table(table_of(rows(10, 10 * number)), tmp_path / "data" / name, row_group_size=4)
    pq.write_table(table_of(rows(3, 90)), tmp_path / "data" / "test-00000-of-00001.parquet")
    return tmp_path


def test_a_published_folder(folder: Path) -> None:
    table = ParquetSource(str(folder), probe_share=0).training()
    assert len(table) == table.num_groups == 20
    for row in (0, 19, 3, 4, 11, 10, 9):
        assert table.read(row) == encoded(row)
        assert table.caption(row) == f"caption {row}"
    assert table.column("label").tolist() == [0, 1] * 10
    assert table.identity(13) == "train-00001-of-00002.parquet/3"
    assert table.store.shard.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 4 + [4] * 4 + [5] * 2  # type: ignore[attr-defined]
    assert table.store.locate(15).endswith("train-00001-of-00002.parquet row group 1 row 1")
    part = pickle.loads(pickle.dumps(table.select([2, 17])))
    assert [part.read(0), part.read(1), part.caption(1)] == [encoded(2), encoded(17), "caption 17"]
    assert len(ParquetSource(str(folder), split="test", probe_share=0).training()) == 3
    assert len(ParquetSource(str(folder), split=None, probe_share=0).training()) == 23
    with pytest.raises(DataError, match=r"no split val; it has test, train\. Type data\.split="):
        ParquetSource(str(folder), split="val").training()


def test_labels_have_their_names(folder: Path) -> None:
    source = ParquetSource(str(folder), probe_share=0.4)
    training, probe = source.training(), source.probe()
    assert probe is not None and probe.class_names == ["cat", "dog"]
    assert len(training) + len(probe.queries) == 20
    assert ParquetSource(str(folder), label_column=None).probe() is None


def test_decoded_row_groups_are_kept_within_a_budget(folder: Path) -> None:
    store = ParquetSource(str(folder)).training().store
    store.budget = 1  # type: ignore[attr-defined]
    for row in range(16):
        store.read(row)
        assert len(store._kept) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("column", "kind"),
    [("jpg", pa.binary()), ("anything", pa.large_binary())],
)
def test_plain_binary_columns(tmp_path: Path, column: str, kind: pa.DataType) -> None:
    table = pa.table({column: pa.array([encoded(i) for i in range(3)], kind), "text": ["a", "b", "a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    found = ParquetSource(str(tmp_path / "x.parquet"), group="caption").training()
    assert [found.read(row) for row in range(3)] == [encoded(0), encoded(2), encoded(1)]
    assert [found.caption(row) for row in range(3)] == ["a", "a", "b"]


def test_several_captions(tmp_path: Path) -> None:
    columns = {
        "image": [encoded(i) for i in range(3)],
        "captions": [["a", "b"], ["c"], ["d", None, " "]],
        "alt": ["x", None, "z"],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    table = ParquetSource(str(tmp_path)).training()
    assert [table.texts(row) for row in range(3)] == [["a", "b"], ["c"], ["d"]]
    both = ParquetSource(str(tmp_path), caption_column=("alt", "captions")).training()
    assert [both.texts(row) for row in range(3)] == [["x", "a", "b"], ["c"], ["z", "d"]]
    assert [both.caption(row) for row in range(3)] == ["x", "c", "z"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image_column": "picture"},
            r"data.image_column=picture: .*x.parquet has no such column; it has image \(struct",
        ),
        ({"image_column": "caption"}, "column caption holds no encoded pictures"),
        ({"caption_column": "label"}, r"data.caption_column=label: this column of .* holds no text"),
        ({"label_column": "image"}, "data.label_column=image: this column of .* holds no classes"),
        ({"caption_column": ("caption", "nope")}, "data.caption_column=nope"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    pq.write_table(table_of(rows(3)), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        ParquetSource(str(tmp_path), **settings).training()


def test_no_picture_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["a"], "n": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no column of encoded pictures; it has url \(string\), n \(int64\)"):
        ParquetSource(str(tmp_path)).training()


def test_rows_without_bytes_or_caption(tmp_path: Path) -> None:
    columns = rows(20)
    columns["image"][3] = {"bytes": None, "path": "elsewhere.png"}
    columns["caption"][5] = None
    columns["label"][7] = -1
    pq.write_table(table_of(columns), tmp_path / "x.parquet")
    table = ParquetSource(str(tmp_path), probe_share=0).training()
    assert len(table) == 19 and table.column("label").tolist().count(-1) == 1
    with pytest.raises(ValueError, match="only the path"):
        table.read(3)


def test_damaged_files(folder: Path) -> None:
    path = folder / "data" / "train-00001-of-00002.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"10 of 20 pictures cannot be used.*cannot be read"):
        ParquetSource(str(folder)).training()
    path.write_bytes(b"")
    assert len(ParquetSource(str(folder), max_left_out=0.5, probe_share=0).training()) == 10
    path.write_bytes(data)
    table = ParquetSource(str(folder), probe_share=0).training()
    path.unlink()
    with pytest.raises(OSError, match="train-00001"):
        table.read(12)
    assert table.read(2) == encoded(2)


def save(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    """The layout of `Dataset.save_to_disk`: an Arrow stream in small batches beside two JSON files."""
    folder.mkdir(parents=True)
    table = table_of(columns)
    settings = pa.ipc.IpcWriteOptions(**options)
    path = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=settings) as writer:
        for batch in table.to_batches(max_chunksize=4):
            writer.write_batch(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


def test_saved_folders(tmp_path: Path) -> None:
    columns = rows(10)
    columns["image"][3]["bytes"] = None
    save(tmp_path / "set" / "train", columns)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for given in (tmp_path / "set", tmp_path / "set" / "train"):
        source = ParquetSource(str(given), probe_share=0)
        table = source.training()
        kept = [i for i in range(10) if i != 3]
        assert [table.read(row) for row in range(9)] == [encoded(i) for i in kept]
        assert [table.caption(row) for row in range(9)] == [f"caption {i}" for i in kept]
        assert "only the path" in source.left_out[0][1]
    with pytest.raises(DataError, match="has no split test; it has train"):
        ParquetSource(str(tmp_path / "set"), split="test").training()


def test_the_datasets_library_writes_what_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {name: values for name, values in rows(12).items() if name != "url"}
    made = datasets.Dataset.from_dict(columns, features=features)
    made.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    made.to_parquet(str(tmp_path / "x.parquet"))
    for given in ("saved", "x.parquet"):
        table = ParquetSource(str(tmp_path / given), probe_share=0).training()
        assert [table.read(row) for row in range(12)] == [encoded(i) for i in range(12)]
        assert table.column("label").tolist() == [0, 1] * 6
        assert ParquetSource(str(tmp_path / given), probe_share=0.5).probe().class_names == ["cat", "dog"]  # type: ignore[union-attr]


def test_damaged_saved_folders(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", rows(12))
    path = folder / "data-00000-of-00001.arrow"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    table = ParquetSource(str(folder), max_left_out=0.5, probe_share=0).training()
    assert 4 <= len(table) < 12 and all(table.read(row) == encoded(row) for row in range(len(table)))
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(DataError, match=r"state\.json is damaged"):
        ParquetSource(str(folder)).training()
    with pytest.raises(DataError, match="is compressed"):
        ParquetSource(str(save(tmp_path / "b", rows(12), compression="lz4"))).training()
    (folder / "state.json").unlink()
    path.write_bytes(b"ARROW1 and nothing else")
    with pytest.raises(DataError, match="cannot be read"):
        ParquetSource(str(folder)).training()
