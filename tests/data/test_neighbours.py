from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lgrep.data import neighbours as module
from lgrep.data.neighbours import NeighboursAbout, NeighbourWriter, open_neighbours, write_neighbours
from lgrep.errors import DataError

ABOUT = NeighboursAbout(unit="caption", table="made", content_hash="abc", encoder={"name": "sbert"}, recall=0.98)
INDICES = np.array([[1, 2], [0, -1], [1, 0], [-1, -1]])
SIMILARITIES = np.array([[0.9, 0.3], [0.9, 7.0], [0.5, 0.5], [1.0, 1.0]])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    table = open_neighbours(write_neighbours(tmp_path / "a" / "b", INDICES, SIMILARITIES, ABOUT))
    table.check()
    assert table.indices.tolist() == INDICES.tolist() and table.indices.dtype == np.int32
    assert np.array_equal(table.similarities[INDICES >= 0], SIMILARITIES[INDICES >= 0].astype(np.float32))
    assert np.isneginf(table.similarities[INDICES < 0]).all()
    assert (len(table), table.k, table.about.rows, table.about.k) == (4, 2, 4, 2)
    assert table.about.encoder == {"name": "sbert"} and table.about.recall == 0.98
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["about.json", "neighbours.arrow"]


def test_blocks_give_the_same_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    indices = (np.arange(50)[:, None] + np.argsort(rng.random((50, 49)), axis=1)[:, :6] + 1) % 50
    similarities = -np.sort(-rng.random((50, 6)), axis=1)
    write_neighbours(tmp_path / "whole", indices, similarities, ABOUT)
    with NeighbourWriter(tmp_path / "blocks", 50, 6, ABOUT) as writer:
        for rows in (slice(0, 1), slice(1, 1), slice(1, 33), slice(33, 50)):
            writer.append(indices[rows], similarities[rows])
    for name in ("about.json", "neighbours.arrow"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes()


def test_arrays_are_views_of_the_file_and_travel_as_its_path(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    indices = (np.arange(9000)[:, None] + np.arange(1, 5)) % 9000
    table = open_neighbours(write_neighbours(tmp_path / "n", indices, -np.sort(-rng.random((9000, 4))), ABOUT))
    assert not table.indices.flags.owndata and not table.indices.flags.writeable
    sent = pickle.dumps(table)
    assert len(sent) < 500
    assert np.array_equal(pickle.loads(sent).similarities, table.similarities)


def test_an_empty_table(tmp_path: Path) -> None:
    table = open_neighbours(write_neighbours(tmp_path, np.zeros((0, 3), int), np.zeros((0, 3)), ABOUT))
    table.check()
    assert table.indices.shape == (0, 3)


@pytest.mark.parametrize(
    ("indices", "similarities", "message"),
    [
        ([[4, 1]], [[0.9, 0.8]], r"lie in 0\.\.3"),
        ([[2**32 + 1, 2]], [[0.9, 0.8]], r"lie in 0\.\.3"),
        ([[-2, 1]], [[0.9, 0.8]], "or are -1"),
        ([[1, 0]], [[0.9, 0.8]], "may not list itself"),
        ([[-1, 1]], [[0.9, 0.8]], "only stand at the end"),
        ([[1, 1]], [[0.9, 0.8]], "once only"),
        ([[1, 2]], [[0.8, 0.9]], "fall from left to right; row 0 has .0.8, 0.9"),
        ([[1, 2]], [[np.nan, 0.9]], "finite"),
        ([[1.0, 2.0]], [[0.9, 0.8]], "integers"),
        ([[1]], [[0.9]], r"got indices \[1, 1\]"),
        ([[1, 2]], [[0.9]], r"similarities \[1, 1\]"),
        ([[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]], [[0.9, 0.8]] * 5, "at most 4 rows"),
    ],
)
def test_impossible_values_are_refused_when_written(
    tmp_path: Path, indices: Any, similarities: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message), NeighbourWriter(tmp_path / "n", 4, 2, ABOUT) as writer:
        writer.append(np.array(indices), np.array(similarities))
    assert list((tmp_path / "n").iterdir()) == []  # nothing is left behind


def test_missing_rows_and_an_existing_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 of 4 rows"), NeighbourWriter(tmp_path, 4, 2, ABOUT):
        pass
    write_neighbours(tmp_path, INDICES, SIMILARITIES, ABOUT)
    with pytest.raises(DataError, match="holds a neighbour table already"):
        write_neighbours(tmp_path, INDICES, SIMILARITIES, ABOUT)
    with pytest.raises(DataError, match=r"\[rows, k\]"):
        write_neighbours(tmp_path / "other", INDICES[0], SIMILARITIES[0], ABOUT)


def test_a_full_disk_is_named_and_leaves_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, batch: pa.RecordBatch) -> None:
        path.write_bytes(b"begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_batch", full)
    with pytest.raises(DataError, match=r"cannot write .* \(No space left on device\); it needs 0\.0 GiB"):
        write_neighbours(tmp_path, INDICES, SIMILARITIES, ABOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_neighbours(tmp_path / "n", INDICES, SIMILARITIES, ABOUT)


def edited(folder: Path, **changes: Any) -> Path:
    about = json.loads((folder / "about.json").read_text())
    about = {key: value for key, value in {**about, **changes}.items() if value is not ...}
    (folder / "about.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this version of lgrep reads format 1"),
        ({"unit": "word"}, "damaged .unit"),
        ({"k": "2"}, "damaged .k"),
        ({"content_hash": ...}, "damaged .content_hash"),
        ({"extra": 1}, "damaged .extra"),
        ({"k": 3}, r"has the columns neighbours: fixed_size_list<item: int32>\[2\]"),
        ({"rows": 5}, "not of the same table"),
        ({"digest": "0"}, "not of the same table"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(written: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_neighbours(edited(written, **changes))


def test_missing_and_cut_files_are_refused(written: Path) -> None:
    data = (written / "neighbours.arrow").read_bytes()
    for cut in (b"", data[:100], data[:-300], b"<html>"):
        (written / "neighbours.arrow").write_bytes(cut)
        with pytest.raises(DataError, match=r"cannot read .*neighbours\.arrow"):
            open_neighbours(written)
    os.remove(written / "neighbours.arrow")
    with pytest.raises(DataError, match=r"cannot read .*neighbours\.arrow"):
        open_neighbours(written)
    (written / "about.json").write_bytes(b"{")
    with pytest.raises(DataError, match="damaged"):
        open_neighbours(written)
    os.remove(written / "about.json")
    with pytest.raises(DataError, match=r"no neighbour table in .*no about\.json"):
        open_neighbours(written)


def test_changed_values_are_found_by_the_check(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 3)  # the last row is in a block of its own
    data = bytearray((written / "neighbours.arrow").read_bytes())
    where = data.index(INDICES.astype(np.int32).tobytes())
    data[where + 24 : where + 28] = np.int32(3).tobytes()
    (written / "neighbours.arrow").write_bytes(data)
    table = open_neighbours(written)
    with pytest.raises(DataError, match=r"may not list itself; row 3 has \[3, -1\] \(1 such rows\)"):
        table.check()


def test_several_batches_are_refused(written: Path) -> None:
    old = pa.ipc.open_file(written / "neighbours.arrow").read_all()
    with pa.ipc.new_file(written / "neighbours.arrow", old.schema) as writer:
        writer.write_table(old, max_chunksize=2)
    with pytest.raises(DataError, match="not one record batch"):
        open_neighbours(written)
