"""Columns in pieces, joined on disk, against Arrow's own concatenation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lgrep.data import columns
from lgrep.data.columns import write_joined


def table() -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(36, dtype=np.float16)), 3)
    return pa.table(
        {
            "id": ["", "a", "é猫", "\0", "x" * 70, "b", "", "c", "d", "e", "f", "g"],
            "long": pa.array([str(n) for n in range(12)], pa.large_string()),
            "year": pa.array(range(12), pa.int16()),
            "score": np.linspace(0, 1, 12),
            "vector": vectors,
            "texts": [["a", "é"], [], ["b"], [""], ["c", "d", "e"], [], [], ["f"], ["g"], ["h"], ["i", "j"], []],
            "ok": [True, False] * 6,
            "holes": [1, None, 3] * 4,
            "gaps": ["a", None, "c"] * 4,
            "tags": [[1], None, [2, 3]] * 4,
        }
    )


@pytest.mark.parametrize("cuts", [[], [5], [0, 1, 1, 7, 12]])
@pytest.mark.parametrize("most", [2**31 - 1, 20])
def test_pieces_become_one(tmp_path: Path, cuts: list[int], most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST", most)
    whole = table()
    bounds = [0, *cuts, len(whole)]

    def pieces(name: str) -> Iterator[pa.Array]:
        for start, stop in zip(bounds, bounds[1:], strict=False):
            yield whole[name].chunk(0)[start:stop]

    write_joined(tmp_path / "joined.arrow", whole.schema, pieces, tmp_path)
    joined = pa.ipc.open_file(pa.memory_map(str(tmp_path / "joined.arrow"))).read_all()
    joined.validate(full=True)
    assert all(column.num_chunks == 1 for column in joined.columns)
    assert joined.to_pydict() == whole.to_pydict()
    assert (joined.schema.field("id").type == pa.large_string()) == (most == 20)
    assert joined.schema.field("vector").type == whole.schema.field("vector").type


def test_no_rows(tmp_path: Path) -> None:
    schema = table().schema

    def pieces(name: str) -> Iterator[pa.Array]:
        yield pa.array([], schema.field(name).type)

    write_joined(tmp_path / "joined.arrow", schema, pieces, tmp_path)
    joined = pa.ipc.open_file(pa.memory_map(str(tmp_path / "joined.arrow"))).read_all()
    assert len(joined) == 0 and joined.column_names == schema.names
