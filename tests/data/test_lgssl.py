"""Language-guided SSL's folders, dictionaries and neighbour lists; RedCaps in its three layouts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import encoded, picture
from published import DIRECTORIES, TEXTS, jpeg, lgssl, redcaps

from lgrep.data.filters import selected_rows
from lgrep.data.making import make_lgssl_neighbours
from lgrep.data.making.lgssl import read_lgssl_neighbours
from lgrep.data.neighbours import open_neighbours
from lgrep.data.sources import LgsslSource, RedCapsSource
from lgrep.data.sources.limits import ReferenceLimitsStore
from lgrep.data.table import Table
from lgrep.errors import DataError

ORDERED = sorted(DIRECTORIES)


def beside(folder: Path, **settings: Any) -> Table:
    return LgsslSource(str(folder / "redcaps"), **settings).training()


def by_dictionary(folder: Path, **settings: Any) -> Table:
    return LgsslSource(str(folder / "redcaps"), str(folder / "redcaps.json"), **settings).training()


def test_both_ways_give_the_same_pictures(tmp_path: Path) -> None:
    lgssl(tmp_path)
    tables = [
        beside(tmp_path, directory_names="subreddit_year"),
        by_dictionary(tmp_path, directory_names="subreddit_year"),
    ]
    assert [table.name for table in tables] == ["redcaps", "redcaps"]
    for table in tables:
        assert len(table) == table.num_groups == 16
        order = sorted(range(16), key=table.identity)
        for place, row in enumerate(order):
            directory, i = ORDERED[place // 4], place % 4
            number = DIRECTORIES.index(directory)
            assert table.identity(row) == f"{directory}/ab{number}{i}"
            assert table.read(row) == jpeg(10 * number + i)
            assert table.texts(row) == [f"{TEXTS[i]} of {directory}"]
            subreddit, year, _ = directory.rsplit("_", 2)
            assert (table.column("subreddit")[row], table.column("year")[row]) == (subreddit, int(year))
    assert not beside(tmp_path).has("year")


def test_a_year_and_a_subreddit(tmp_path: Path) -> None:
    table = beside(lgssl(tmp_path), directory_names="subreddit_year")
    rows = selected_rows(table, {"year": 2020})
    assert {table.identity(int(row)).split("/")[0] for row in rows} == set(DIRECTORIES[1:])
    assert len(selected_rows(table, {"year": 2020, "subreddit": "data_is_beautiful"})) == 4


def test_names_end_at_the_first_dot_and_lonely_files_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lgssl(tmp_path)
    folder = tmp_path / "redcaps" / DIRECTORIES[0]
    (folder / "two.dots.png").write_bytes(encoded(1))
    (folder / "two.json").write_text('{"caption": "dotted"}')
    (folder / "lonely.json").write_text('{"caption": "no picture"}')
    (folder / "lonely2.jpg").write_bytes(encoded(1))
    (folder / "broken.jpg").write_bytes(encoded(1))
    (folder / "broken.json").write_text('{"caption": ')
    (folder / "number.jpg").write_bytes(encoded(1))
    (folder / "number.json").write_text('{"caption": 7}')
    (folder / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "redcaps" / ".lgrep-index").mkdir()
    (tmp_path / "redcaps" / "readme.txt").write_text("")
    with pytest.raises(DataError, match=r"4 of 21 records .*no JSON file beside it"):
        beside(tmp_path, max_left_out=0.1)
    table = beside(tmp_path, max_left_out=0.2)
    assert "2 a JSON file without a caption that is a text" in capsys.readouterr().err
    row = [table.identity(row) for row in range(len(table))].index(f"{DIRECTORIES[0]}/two")
    assert table.caption(row) == "dotted" and table.read(row) == encoded(1)
    assert len(table) == 17


def test_a_new_file_is_noticed(tmp_path: Path) -> None:
    assert len(beside(lgssl(tmp_path))) == 16
    folder = tmp_path / "redcaps" / DIRECTORIES[2]
    (folder / "new.jpg").write_bytes(encoded(1))
    (folder / "new.json").write_text('{"caption": "new"}')
    os.utime(folder, ns=(1, 1))  # coarse clocks
    assert len(beside(tmp_path)) == 17


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    lgssl(tmp_path)
    folder = os.fsencode(tmp_path / "redcaps") + b"/caf\xe9_2020_000001"
    os.mkdir(folder)
    for name, data in ((b"na\xefve.jpg", encoded(5)), (b"na\xefve.json", b'{"caption": "odd name"}')):
        with open(folder + b"/" + name, "wb") as file:
            file.write(data)
    table = beside(tmp_path, directory_names="subreddit_year")
    row = next(row for row in range(len(table)) if table.caption(row) == "odd name")
    assert table.read(row) == encoded(5)
    assert table.identity(row) == r"caf\udce9_2020_000001/na\udcefve"


def test_dictionaries_that_hold_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lgssl(tmp_path)
    content = json.loads((tmp_path / "redcaps.json").read_text())
    content["bad"] = {
        "a": ["../../etc/passwd", "x"],
        "b": ["/etc/passwd", "x"],
        "c": ["only a path"],
        "d": [f"{DIRECTORIES[0]}/ab00.jpg", 7],
        "e": "text",
        "f": [None, "x"],
        "g": ["", "x"],
        "h": ["half \ud800.jpg", "x"],
    }
    content["empty"] = {}
    content["odd"] = {"e": [f"{DIRECTORIES[0]}/ab00.jpg", ""], "n": [f"{DIRECTORIES[0]}/ab00.jpg", None]}
    (tmp_path / "redcaps.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="8 of 26 records of data.dictionary"):
        by_dictionary(tmp_path)
    table = by_dictionary(tmp_path, max_left_out=1)
    assert len(table) == 18 and table.texts(17) == [""]
    assert "8 of 26 records" in capsys.readouterr().err
    assert len(by_dictionary(tmp_path, max_left_out=1, empty="drop")) == 16


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": {"b": ["c", "d"]}', "no whole JSON file"),
        ('{"a": ["b"]}', "no dictionary of directories"),
        ('[["a"]]', "no dictionary of directories"),
        ("{}", "holds no picture"),
        ("", "no whole JSON file"),
        ('{"a": {}} x', "no whole JSON file: something follows"),
        ('{"a" {}}', "expected : "),
        ("{1: {}}", "expected a key"),
        ("[" * 200_000, "no whole JSON file: nested too deep"),
        ('{"a": "\xe9"}'.encode("latin1"), "no UTF-8"),
    ],
)
def test_broken_dictionaries(tmp_path: Path, content: str | bytes, said: str) -> None:
    (tmp_path / "redcaps").mkdir()
    (tmp_path / "redcaps.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said):
        by_dictionary(tmp_path)


def test_published_limits(tmp_path: Path) -> None:
    lgssl(tmp_path)
    folder = tmp_path / "redcaps" / ORDERED[0]
    names = sorted(path.name for path in folder.glob("*.jpg"))
    picture(0, 2100, 100).save(folder / names[0], "JPEG")
    picture(0, 2000, 100).save(folder / names[1], "JPEG")
    (folder / names[2]).write_bytes(encoded(2) + b"\0" * (1024 * 1024 - len(encoded(2))))
    (folder / names[3]).write_bytes(encoded(3) + b"\0" * (1024 * 1024 + 1 - len(encoded(3))))
    table = beside(tmp_path, reference_behaviour=True)
    assert isinstance(table.store, ReferenceLimitsStore)
    assert isinstance(table.select([1, 0]).store, ReferenceLimitsStore)
    with pytest.raises(ValueError, match="aspect ratio above 20"):
        table.read(0)
    assert table.read(1) and table.read(2)
    with pytest.raises(ValueError, match="more than 1024 kB"):
        table.read(3)
    assert beside(tmp_path).read(0) and beside(tmp_path).read(3)


def test_redcaps_as_its_downloader_writes_it(tmp_path: Path) -> None:
    table = RedCapsSource(str(redcaps(tmp_path))).training()
    assert len(table) == 12
    assert [table.identity(row) for row in (0, 4, 11)] == ["crochet/q00", "crochet/q10", "data_is_beautiful/q23"]
    assert [table.caption(row) for row in range(4)] == TEXTS[:4] and table.read(9) == jpeg(201)
    assert table.column("year").tolist() == [2017] * 4 + [2020] * 8
    assert len(selected_rows(table, {"year": 2020, "subreddit": ["crochet"]})) == 4


def test_redcaps_as_clip_rocket_reads_it(tmp_path: Path) -> None:
    redcaps(tmp_path)
    records = [{"image_id": "q00", "subreddit": "crochet", "caption": "one", "created_utc": 1577836799}]
    records += [{"image_id": "q20", "subreddit": "data_is_beautiful", "caption": "two", "created_utc": 1577836800}]
    records += [{"image_id": "q21", "subreddit": "data_is_beautiful", "caption": "three"}]
    bad = [{"image_id": "../x", "subreddit": "a", "caption": "x"}, {"image_id": "x", "subreddit": "..", "caption": "x"}]
    (tmp_path / "list.json").write_text(json.dumps(records + bad))
    for root in (tmp_path, tmp_path / "images"):
        table = RedCapsSource(str(root), str(tmp_path / "list.json"), max_left_out=0.5).training()
        assert [table.caption(row) for row in range(3)] == ["one", "two", "three"]
        assert [table.read(row) for row in range(3)] == [jpeg(0), jpeg(200), jpeg(201)]
        assert table.column("year").tolist() == [2019, 2020, -1]


def test_redcaps_in_the_folders_of_lgssl(tmp_path: Path) -> None:
    lgssl(tmp_path)
    for captions in (None, str(tmp_path / "redcaps.json")):
        table = RedCapsSource(str(tmp_path / "redcaps"), captions).training()
        assert sorted(set(table.column("year").tolist())) == [2017, 2020] and len(table) == 16


def test_redcaps_faults(tmp_path: Path) -> None:
    redcaps(tmp_path)
    with pytest.raises(DataError, match="data.captions=.*cannot be read"):
        RedCapsSource(str(tmp_path), str(tmp_path / "none.json")).training()
    (tmp_path / "annotations" / "crochet_2017.json").write_text('{"info": {}}')
    with pytest.raises(DataError, match=r"crochet_2017.json has no list 'annotations'"):
        RedCapsSource(str(tmp_path)).training()
    shutil.rmtree(tmp_path / "annotations")
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="holds no file named like"):
        RedCapsSource(str(tmp_path)).training()


def neighbour_list(folder: Path, entries: list[Any]) -> Path:
    path = folder / "redcaps_all-mpnet-base-v2.json"
    path.write_text(json.dumps(entries))
    return path


def test_neighbour_lists(tmp_path: Path) -> None:
    table = by_dictionary(lgssl(tmp_path))
    a, b, c, d = ([DIRECTORIES[i], f"ab{i}0"] for i in range(4))  # rows 0, 4, 8, 12
    entries = [[a, b, 0.75], [b, a, 0.5], [c, d, 0.9, 1.5], [c, a, 0.95, 1.1], [d, d, 1.0], [d, ["gone", "x"], 0.9]]
    path = neighbour_list(tmp_path, [*entries, [c, a, 0.95, 1.1], [d, a, float("nan")]])
    found = read_lgssl_neighbours(path, table)
    assert found.indices.shape == found.similarities.shape == (16, 2) and found.indices.dtype == np.int32
    assert {row: found.indices[row].tolist() for row in (0, 4, 8, 12)} == {
        0: [4, -1],
        4: [0, -1],
        8: [0, 12],
        12: [-1, -1],
    }
    assert found.similarities[8].tolist() == [np.float32(0.95), np.float32(0.9)] and found.similarities[0, 1] == -np.inf
    assert (found.unknown, found.below, found.useless) == (1, 0, 3)
    strict = read_lgssl_neighbours(path, table, similarity_threshold=0.75, ratio_threshold=1.0)
    assert strict.indices[[0, 4, 8], 0].tolist() == [4, -1, 0] and strict.below == 1
    assert read_lgssl_neighbours(path, table, ratio_threshold=1.2).indices[:, 0].max() == 12


def test_neighbour_lists_become_tables(tmp_path: Path) -> None:
    lgssl(tmp_path)
    entries = [[[DIRECTORIES[0], f"ab0{i}"], [DIRECTORIES[1], f"ab1{i}"], 0.5 + i / 10] for i in range(4)]
    said = make_lgssl_neighbours(
        tmp_path / "out",
        str(neighbour_list(tmp_path, entries)),
        str(tmp_path / "redcaps"),
        str(tmp_path / "redcaps.json"),
    )
    assert "4 of 16 pictures have neighbours" in said
    table = open_neighbours(tmp_path / "out")
    table.check()
    assert table.indices[:4, 0].tolist() == [4, 5, 6, 7] and table.about.encoder == {"name": "all-mpnet-base-v2"}
    assert table.about.content_hash == by_dictionary(tmp_path).content_hash


@pytest.mark.parametrize(
    "entries",
    [[], [[["a", "b"], 0.5]], [[["a", "b"], ["c"], 0.5]], [[["a", "b"], ["c", "d"], "x"]], [7], {"a": 1}]
    + [[[["x", "1"], ["x", "2"], 0.5]], [[["a", 1], ["c", "d"], 0.5]], [[["a", "b"], ["c", "d"], 1, 1, 1]]],
)
def test_broken_neighbour_lists(tmp_path: Path, entries: Any) -> None:
    table = by_dictionary(lgssl(tmp_path))
    with pytest.raises(DataError, match=r"make.file=.*"):
        read_lgssl_neighbours(neighbour_list(tmp_path, entries), table)
