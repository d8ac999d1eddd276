"""Unions of sources: every row of every part, with nothing copied that need not be."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from layouts import stablerep_layout
from made import encoded, picture_folder

from lgrep.config.compose import compose_config
from lgrep.config.sources import build_source, source_spec
from lgrep.data.filters import part_names, selected_rows
from lgrep.data.preparing import prepare
from lgrep.data.shards import verify_set
from lgrep.data.sources import CaptionFolders, EmojiSource, FolderSource, ShardSource
from lgrep.data.sources.filtered import FilteredSource
from lgrep.data.sources.union import UnionSource
from lgrep.data.table import Table, open_set
from lgrep.data.unions import UnionTable
from lgrep.errors import ConfigError, DataError


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    """A plain folder, three seed folders, and a prepared set; two captions of the first two are equal."""
    folder = picture_folder(tmp_path / "folder", groups=4, per_group=2)
    layout = stablerep_layout(tmp_path / "stablerep", captions=5, seeds=3)
    (layout / "captions.csv").write_text(
        "".join(f'000000/000000/0000{n}.png,"{text}"\n' for n, text in enumerate(
            ["caption number 2", "a, quoted", "caption number 0", "caption number 2", "last"])), encoding="utf-8")  # fmt: skip
    prepare(FolderSource(str(folder), captions="sidecar").training(), tmp_path / "set")
    return {
        "real": FolderSource(str(folder), captions="sidecar", group="folder", labels="folder", probe_share=0.0),
        "synthetic": CaptionFolders(str(layout / "captions.csv"), str(layout), seeds=3),
        "stored": ShardSource(str(tmp_path / "set")),
    }


def rows_of(table: Table) -> list[tuple[str, int, str, bytes]]:
    return [(table.identity(r), table.caption_row(r), table.caption(r), table.read(r)) for r in range(len(table))]


def test_a_union_has_the_rows_of_its_parts(parts: dict[str, Any]) -> None:
    table = UnionSource(parts).training()
    tables = {name: source.training() for name, source in parts.items()}
    offset, expected = 0, []
    for name, part in tables.items():
        expected += [(f"{name}/{i}", group + offset, text, data) for i, group, text, data in rows_of(part)]
        offset += part.num_groups
    assert rows_of(table) == expected and table.num_groups == offset
    assert table.column("id").tolist() == [identity for identity, *_ in expected]
    assert table.group.tolist() == [group for _, group, *_ in expected]
    assert table.column("part").tolist() == [0] * 8 + [1] * 15 + [2] * 8
    assert all(row in table.members(int(table.group[row])) for row in range(len(table)))
    assert table.has("part") and not table.has("designer") and len(table.content_hash) == 16


def test_equal_texts_become_siblings(parts: dict[str, Any]) -> None:
    separate, table = UnionSource(parts).training(), UnionSource(parts, same_text="merge").training()
    assert sorted(data for *_, data in rows_of(table)) == sorted(data for *_, data in rows_of(separate))
    assert {identity: (text, data) for identity, _, text, data in rows_of(table)} == {
        identity: (text, data) for identity, _, text, data in rows_of(separate)
    }
    by_text: dict[str, set[str]] = {}
    for identity, _, text, _ in rows_of(separate):
        by_text.setdefault(text, set()).add(identity)
    for group in range(table.num_groups):
        members = table.members(group)
        assert {table.identity(row) for row in members} == by_text[table.caption(members[0])]
    assert table.num_groups == len(by_text) == 6
    assert table.captions["text"].to_pylist()[:2] == ["caption number 1", "caption number 3"]
    assert (np.diff(table.group) >= 0).all()
    assert table.column("part")[list(table.members(2))].tolist() == sorted(table.column("part")[list(table.members(2))])


def test_pictures_without_text_are_never_merged(tmp_path: Path) -> None:
    sources = {name: FolderSource(str(picture_folder(tmp_path / name, 2, 2))) for name in ("a", "b")}
    table = UnionSource(sources, same_text="merge").training()
    assert table.num_groups == len(table) == 8
    assert [table.identity(row)[0] for row in range(8)] == list("aaaabbbb")


@pytest.mark.parametrize("same_text", ["separate", "merge"])
def test_selection_copies_and_prepared_unions_keep_their_rows(
    parts: dict[str, Any], same_text: Any, tmp_path: Path
) -> None:
    source = UnionSource(parts, same_text=same_text)
    table = source.training()
    everything = {identity: (text, data) for identity, _, text, data in rows_of(table)}
    chosen = np.array([1, 2, 9, 12, 20, 30])
    picked = table.select(chosen)
    assert [identity for identity, *_ in rows_of(picked)] == [table.identity(int(row)) for row in chosen]
    travelled = pickle.loads(pickle.dumps(table))
    assert rows_of(travelled) == rows_of(table)
    assert travelled.column("part").tolist() == table.column("part").tolist()
    synthetic = FilteredSource(source, {"part": "synthetic", "caption": {"matches": "number"}}).training()
    assert len(synthetic) == 9 and set(synthetic.column("part")) == {1}
    prepare(table, tmp_path / "union", shard_rows=7)
    verify_set(tmp_path / "union")
    stored = open_set(tmp_path / "union")
    assert [r[:3] for r in rows_of(stored)] == [r[:3] for r in rows_of(table)]
    assert part_names(stored.pictures.schema) == ["real", "synthetic", "stored"]
    assert len(selected_rows(stored, {"part": ["real", 2]})) == 16
    for some in (picked, synthetic, stored):
        assert all(everything[identity] == (text, data) for identity, _, text, data in rows_of(some))
    with pytest.raises(DataError, match="did you mean 'stored'"):
        selected_rows(stored, {"part": "storde"})


def made(name: str, columns: dict[str, Any], captions: dict[str, Any]) -> Table:
    class Bytes:
        def read(self, row: int) -> bytes:
            return f"{name}{row}".encode()

        def locate(self, row: int) -> str:
            return str(row)

        def subset(self, rows: Any) -> Bytes:
            return self

    return Table(pa.table(columns), pa.table(captions), Bytes(), name, name)


def test_columns_that_the_parts_share() -> None:
    a = made(
        "a",
        {"id": ["x", "y"], "group": pa.array([0, 1], pa.int32()), "family": pa.array([-1, 5], pa.int32()), "year": [1, 2],
         "by": pa.array(["p", "q"]).dictionary_encode(), "own": [1.0, 2.0]},
        {"id": ["0", "1"], "text": ["s", "t"], "texts": [["s", "s2"], ["t"]], "extra": [1, 2]},
    )  # fmt: skip
    b = made(
        "b",
        {"id": ["x"], "group": pa.array([0], pa.int32()), "year": [3], "by": ["r"], "label": pa.array([4], pa.int32())},
        {"id": ["0"], "text": pa.array(["u"], pa.large_string()), "first": pa.array([0], pa.int64())},
    )
    table = UnionTable({"a": a, "b": b}, "both")
    assert [name for name in ("family", "label", "year", "by", "own") if table.has(name)] == [
        "family",
        "label",
        "year",
        "by",
    ]
    assert table.column("year").tolist() == [1, 2, 3] and table.column("by").tolist() == ["p", "q", "r"]
    assert table.column("label").tolist() == [-1, -1, 4]
    assert len(set(table.column("family").tolist())) == 3
    assert [table.texts(row) for row in range(3)] == [["s", "s2"], ["t"], ["u"]]
    assert table.captions.column_names == ["id", "text", "texts"]
    assert selected_rows(table, {"by": ["q", "r"]}).tolist() == [1, 2]
    assert not UnionTable({"a": a, "b": b}, "both", labels=False).has("label")


def test_labels_need_the_same_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def folder(name: str, **settings: Any) -> FolderSource:
        root = tmp_path / name
        if not root.exists():
            picture_folder(root, groups=20, per_group=2)
        return FolderSource(str(root), labels="folder", probe_share=0.3, **settings)

    source = UnionSource({"a": folder("a"), "b": folder("b")})
    table, probe = source.training(), source.probe()
    assert probe is not None and probe.class_names == ["class_a", "class_b"]
    assert len(probe.queries) == sum(len(folder(name).probe().queries) for name in "ab")  # type: ignore[union-attr]
    assert not {probe.queries.identity(row) for row in range(len(probe.queries))} & set(table.column("id"))
    names = [probe.class_names[label] for label in table.column("label")]
    assert all(f"/{name}/" in identity for name, identity in zip(names, table.column("id"), strict=True))
    for name in ("c", "d"):
        (tmp_path / "b" / "class_b" / name).mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "other").mkdir()
    for number in range(20):
        (tmp_path / "c" / "other" / f"{number}.png").write_bytes(encoded(number))
    mixed = UnionSource({"a": folder("a"), "c": folder("c")})
    assert not mixed.training().has("label") and mixed.probe() is None
    assert "not provably of the same classes" in capsys.readouterr().err
    one = UnionSource({"a": folder("a"), "emoji": FolderSource(str(tmp_path / "b"))})
    assert set(one.training().column("label")) == {-1, 0, 1}
    assert one.probe().class_names == ["class_a", "class_b"]  # type: ignore[union-attr]


def test_shares_split_the_anchors_by_part(parts: dict[str, Any]) -> None:
    source = FilteredSource(UnionSource(parts, shares={"real": 1, "synthetic": 2, "stored": 1}), {"part": [0, 1, 2]})
    table = source.training()
    assert source.mixture.shares == (0.25, 0.5, 0.25)
    pictures = source.mixture.split(table, np.arange(len(table)), np.arange(len(table)))
    assert [len(part) for part in pictures] == [8, 15, 8]
    anchors = np.arange(table.num_groups)
    first = np.array([table.members(group).start for group in anchors])
    assert [part.tolist() for part in source.mixture.split(table, anchors, first)] == [[*range(4)], [*range(4, 9)], [*range(9, 17)]]  # fmt: skip
    without = FilteredSource(source, {"part": ["real", "stored"]}).training()
    with pytest.raises(DataError, match="the part synthetic has nothing"):
        source.mixture.split(without, np.arange(len(without)), np.arange(len(without)))


def test_a_union_on_the_command_line(tmp_path: Path) -> None:
    root = picture_folder(tmp_path)
    values, _ = compose_config(
        "train",
        [
            *("data=union", "+data@data.parts.some=folder", f"data.parts.some.root={root}", "data.parts.some.limit=7"),
            *("+data@data.parts.drawn=emoji", "data.parts.drawn.where.designer=noto", "data.limit=500"),
            "data.shares={some:0.5,drawn:0.5}",
        ],
    )
    source = build_source(source_spec(values["data"]))
    table = source.source.training()
    assert len(table) == 7 + 954 and len(source.training()) == 500 and source.mixture.names == ("some", "drawn")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["data=union"], ConfigError, "data.parts is empty"),
        (["data=union", "+data.parts.a=3"], ConfigError, "data.parts.a is no source"),
        (["data=union", "+data@data.parts.a=folder", "data.parts.a.root=x", "+data.parts.a.grup=1"], ConfigError, "data.parts.a.grup"),
        (["data=union", "+data@data.parts.a=emoji", "data.shares={b:1}"], ConfigError, "data.shares.b"),
        (["data=union", "+data@data.parts.a=emoji", "data.shares={a:1}", "data.same_text=merge"], ConfigError, "data.same_text=separate"),
        (["data=union", "+data@data.parts.a=folder", "data.parts.a.root=nowhere"], DataError, "data.parts.a .*nowhere does not exist"),
    ],
)  # fmt: skip
def test_wrong_unions(arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_source(source_spec(compose_config("train", arguments)[0]["data"])).training()


def test_archives_are_counted_over_all_parts(parts: dict[str, Any]) -> None:
    stored = parts["stored"].training()
    assert UnionSource(parts).training().store.shard is None  # type: ignore[attr-defined]
    twice = UnionTable({"a": stored, "b": stored}, "twice")
    assert twice.store.shard.tolist() == [0] * 8 + [1] * 8  # type: ignore[attr-defined]
    assert twice.store.subset(np.array([3, 9])).shard.tolist() == [0, 1]  # type: ignore[union-attr]


def test_emoji_twice_has_numbers_of_its_own_families() -> None:
    emoji = EmojiSource().training()
    table = UnionTable({"one": emoji, "two": emoji}, "both", merge=True)
    assert table.num_groups == emoji.num_groups and len(table) == 2 * len(emoji)
    families = table.column("family")
    for group in (0, 100, 953):
        members, own = table.members(group), emoji.column("family")[list(emoji.members(group))]
        assert len(set(families[list(members)])) == 2 * len(set(own))
