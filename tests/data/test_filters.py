"""Rows by conditions and by keyed hashes, against plain Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from layouts import stablerep_layout
from made import picture_folder

from lgrep.config.compose import compose_config
from lgrep.config.sources import build_source, source_spec
from lgrep.data import emoji
from lgrep.data.filters import keyed_hash, limited_rows, selected_rows
from lgrep.data.sources import CaptionFolders, EmojiSource, FolderSource
from lgrep.data.sources.filtered import FilteredSource
from lgrep.data.stores import FolderStore
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError
from lgrep.training.resolve import resolve


def made(columns: dict[str, Any], groups: list[int] | None = None) -> Table:
    count = len(next(iter(columns.values())))
    groups = groups or list(range(count))
    ids = columns.get("id", [f"r/{number}" for number in range(count)])
    pictures = pa.table({**columns, "id": ids, "group": pa.array(groups, pa.int32())})
    texts = [f"text {number}" for number in range(max(groups) + 1)]
    captions = pa.table({"id": texts, "text": texts, "length": [len(text) + n for n, text in enumerate(texts)]})
    return Table(pictures, captions, FolderStore(Path(), [str(number) for number in range(count)]), "made", "")


def test_conditions_match_plain_python() -> None:
    table = emoji.open_emoji()
    rows = range(len(table))
    designer, label = table.column("designer"), table.column("label")
    for where, expected in (
        ({"designer": "noto"}, [r for r in rows if designer[r] == "noto"]),
        ({"designer": ["noto", "fxemoji"]}, [r for r in rows if designer[r] in ("noto", "fxemoji")]),
        ({"label": {"min": 3, "max": 5.5}}, [r for r in rows if 3 <= label[r] <= 5]),
        ({"caption": {"matches": "^(red|blue) "}}, [r for r in rows if re.search("^(red|blue) ", table.caption(r))]),
        ({"id": {"matches": "^1f6.*noto"}}, [r for r in rows if re.search("^1f6.*noto", table.identity(r))]),
        ({"topic": "Animals & Nature"}, [r for r in rows if table.caption_column("topic")[table.caption_row(r)] == "Animals & Nature"]),
        ({"fold": [2, 3], "label": {"min": 0}}, [r for r in rows if label[r] >= 0 and table.caption_column("fold")[table.caption_row(r)] in (2, 3)]),
    ):  # fmt: skip
        assert expected and selected_rows(table, where).tolist() == expected, where
    assert len(selected_rows(table, {})) == len(table)


def test_values_take_the_type_of_the_column_and_nulls_fulfil_nothing() -> None:
    table = made({"year": [2019, 2020, None, 2021], "sub": ["2020", "cats", None, ""], "score": [0.5, 1, 2, None], "ok": [True, False, True, None]})  # fmt: skip
    assert selected_rows(table, {"year": "2020"}).tolist() == [1]
    assert selected_rows(table, {"sub": 2020}).tolist() == [0]
    assert selected_rows(table, {"year": {"min": 2019.5}}).tolist() == [1, 3]
    assert selected_rows(table, {"score": {"max": 1}}).tolist() == [0, 1]
    assert selected_rows(table, {"ok": True}).tolist() == [0, 2]
    assert selected_rows(table, {"sub": ""}).tolist() == [3]
    assert selected_rows(table, {"length": {"max": 7}, "caption": ["text 0", "text 3"]}).tolist() == [0]


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"yaer": 2020}, DataError, "did you mean 'year'"),
        ({"colour": 1}, DataError, "Pictures have year, id, group; captions have caption, length"),
        ({"year": 1900, "id": "r/1"}, DataError, "of 4 pictures data.where.year keeps 0, data.where.id keeps 1"),
        ({"year": 2020, "id": "r/0"}, DataError, "keeps 1, data.where.id keeps 1, but none fulfils all"),
        ({"year": "abc"}, ConfigError, "data.where.year=abc: the column holds int64"),
        ({"year": {"matches": "2"}}, ConfigError, "matches needs text"),
        ({"year": {"mni": 3}}, ConfigError, "did you mean 'min'"),
        ({"year": {}}, ConfigError, "it is empty"),
        ({"year": []}, ConfigError, "keeps nothing"),
        ({"year": None}, ConfigError, "keeps nothing"),
        ({"id": {"matches": "("}}, ConfigError, "no regular expression"),
        ({"id": {"matches": "(?=a)"}}, ConfigError, "RE2"),
    ],
)
def test_wrong_conditions(where: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        selected_rows(made({"year": [2019, 2020, 2021, 2021]}), where)


def test_tables_that_compute_their_columns(tmp_path: Path) -> None:
    layout = stablerep_layout(tmp_path, captions=8, seeds=3)
    table = CaptionFolders(str(layout / "captions.csv"), str(layout), seeds=3).training()
    rows = selected_rows(table, {"id": {"matches": "seed_2/"}, "caption": {"matches": "no. [3-6],"}})
    assert [table.identity(row) for row in rows] == [f"ddim_2.0_seed_2/000000/000000/0000{n}.png" for n in (3, 4, 5, 6)]
    kept = limited_rows(table, np.arange(len(table)), 3, 0, "caption")
    assert len(kept) == 9 and len({table.caption_row(row) for row in kept}) == 3


def test_hash_depends_on_text_and_seed_alone() -> None:
    texts = ["", "a", "b", "ab", "ba", "a\0", "\0", "é", "x" * 5000, *(f"{n:05d}.jpg" for n in range(70_000))]
    whole = keyed_hash(pa.array(texts), 3)
    assert len(set(whole.tolist())) == len(texts)
    pieces = pa.chunked_array(
        [pa.array(texts[:4]), pa.array([], pa.string()), pa.array(texts)[4:100], pa.array(texts[100:])]
    )
    assert np.array_equal(keyed_hash(pieces, 3), whole)
    assert np.array_equal(keyed_hash(pa.array(texts, pa.large_string()), 3), whole)
    assert not np.isin(keyed_hash(pa.array(texts), 4), whole).any()
    assert len(keyed_hash(pa.array([], pa.string()), 0)) == 0
    bits = (whole[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.01


def test_limits_are_random_nested_and_stable() -> None:
    table = made({"id": [f"{number:05d}" for number in range(2000)]})
    rows = np.arange(2000)
    subsets = {limit: limited_rows(table, rows, limit, 0, "picture") for limit in (10, 500, 1000, 5000)}
    assert [len(subset) for subset in subsets.values()] == [10, 500, 1000, 2000]
    assert set(subsets[10]) < set(subsets[500]) < set(subsets[1000])
    assert all((np.diff(subset) > 0).all() for subset in subsets.values())
    halves = [int((subsets[1000] // 250 == part).sum()) for part in range(8)]
    assert min(halves) > 95 and max(halves) < 155
    assert 200 < len(set(subsets[1000]) & set(limited_rows(table, rows, 1000, 1, "picture"))) < 600
    names = {table.identity(row) for row in subsets[500]}
    other = made({"id": [f"{number:05d}" for number in range(1999, -1, -1)]})
    assert {other.identity(row) for row in limited_rows(other, rows, 500, 0, "picture")} == names


def test_captions_keep_their_pictures() -> None:
    table = made({"id": [f"{number}" for number in range(30)]}, groups=[number // 3 for number in range(30)])
    kept = limited_rows(table, np.arange(0, 30, 2), 4, 0, "caption")
    groups = {int(table.group[row]) for row in kept}
    assert len(groups) == 4 and set(kept) == {row for row in range(0, 30, 2) if row // 3 in groups}


def test_a_filtered_source_passes_the_rest_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root := picture_folder(tmp_path)).joinpath("empty.png").touch()
    inner = FolderSource(str(root), captions="sidecar", group="folder", labels="folder", max_left_out=0.5)
    source = FilteredSource(inner, {"caption": {"matches": "[0-3]$"}}, limit=5)
    table = source.training()
    assert len(table) == 5 and all(int(table.caption(row)[-1]) <= 3 for row in range(5))
    assert "Type data.limit_by=caption" in capsys.readouterr().err
    assert source.left_out == [("empty.png", "empty file")] and not hasattr(source, "schedules")
    assert source.probe().class_names == inner.probe().class_names
    assert FilteredSource(EmojiSource()).training().content_hash == EmojiSource().training().content_hash
    assert table.content_hash != FilteredSource(inner, limit=5, limit_seed=1).training().content_hash


def test_any_source_takes_conditions_on_the_command_line() -> None:
    values, choices = compose_config(
        "train", ["data.where.designer=[noto,fxemoji]", "data.where.label.min=0", "data.limit=50"]
    )
    table = resolve(values, choices).source.training()
    assert (
        len(table) == 50 and set(table.column("designer")) == {"noto", "fxemoji"} and table.column("label").min() >= 0
    )
    assert values["data"]["where"] == {"designer": ["noto", "fxemoji"], "label": {"min": 0}}
    composed, _ = compose_config(
        "train", ["data=stablerep_cc12m", "data.limit=3", "data.limit_by=caption", "data.limit_seed=2"]
    )
    source = build_source(source_spec(composed["data"]))
    assert source.limit_seed == 2 and source.schedules["1x"].epochs == 15
    quoted = compose_config("train", ["data.where.id={matches:'^r/(cats|dogs)'}"])[0]
    assert quoted["data"]["where"]["id"]["matches"] == "^r/(cats|dogs)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.limit=0", "data.limit"),
        ("data.limit_by=pictures", "data.limit_by"),
        ("data.wher.designer=noto", "data.wher"),
        ("data.where.id.matches='('", "no regular expression"),
    ],
)
def test_wrong_selections_fail_before_data_are_opened(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(*compose_config("train", [override]))
