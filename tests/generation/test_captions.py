"""Captions from tables and files: what is taken, what is left out, what names them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import caption_text, stablerep_layout
from made import picture_folder

from lgrep.data.arrow_files import write_arrow
from lgrep.data.sources import CaptionFolders, EmojiSource, FolderSource
from lgrep.errors import ConfigError, DataError
from lgrep.generation.captions import Captions, captions_in, captions_of


def texts(captions: Captions) -> list[str]:
    found: list[str] = captions.table["text"].to_pylist()
    return found


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    file = written(tmp_path, "list.txt", "a cat\n\n  \na dog \r\na cat\n\u200b\nein Bär 猫")
    found = captions_in(file)
    assert texts(found) == ["a cat", "a dog", "ein Bär 猫"]
    assert found.merged == 1 and [row for row, _ in found.skipped] == ["row 2", "row 3", "row 6"]
    assert found.name == "list"
    utf16 = captions_in(written(tmp_path, "other.txt", "a dog\nein Bär 猫\n".encode("utf-16")))
    assert set(utf16.table["id"].to_pylist()) <= set(found.table["id"].to_pylist())  # named by their texts alone


@pytest.mark.parametrize(
    ("content", "column"),
    [
        ("a cat\na dog\n", None),
        ("000/1.png,a cat\n000/2.png,a dog\n", None),
        ("path,Caption\n000/1.png,a cat\n000/2.png,a dog\n", None),
        ("text,what\nx,a cat\ny,a dog\n", "what"),
        ('\ufeffid,text\n1,"a cat"\n2,"a dog"\n', None),
    ],
)
def test_columns_of_csv_files(tmp_path: Path, content: str, column: str | None) -> None:
    assert texts(captions_in(written(tmp_path, "list.csv", content), column)) == ["a cat", "a dog"]


def test_tables_in_files(tmp_path: Path) -> None:
    table = pa.table({"id": ["x", "y", "z"], "prompt": ["a cat", None, "a dog"], "label": [1, 2, 3]})
    write_arrow(tmp_path / "list.arrow", table)
    pq.write_table(table, tmp_path / "list.parquet")
    (tmp_path / "list.json").write_text(json.dumps(["a cat", "", "a dog"]))
    for name in ("list.arrow", "list.parquet"):
        found = captions_in(str(tmp_path / name))
        assert texts(found) == ["a cat", "a dog"] and found.table["id"].to_pylist() == ["x", "z"]
        assert [caption for caption, _ in found.skipped] == ["y"]
    assert texts(captions_in(str(tmp_path / "list.json"))) == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "No such file"),
        ("none.arrow", None, "No such file"),
        ("list.txt", "\n \n", "no caption to draw"),
        ("list.csv", "", "is empty"),
        ("list.arrow", b"ARROW1 no", "cannot read"),
        ("list.txt", b"caf\xe9\n", "cannot be read"),
        ("list.csv", 'a,"b', "no caption|unexpected end|list.csv"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    file = str(tmp_path / name) if content is None else written(tmp_path, name, content)
    if name == "list.csv" and content:
        captions_in(file)  # Python's reader closes the quote at the end
        return
    with pytest.raises(DataError, match=message):
        captions_in(file)


def test_wrong_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it must be \.txt"):
        captions_in(written(tmp_path, "list.docx", "a"))
    with pytest.raises(DataError, match=r"caption_column=NAME"):
        captions_in(written(tmp_path, "list.json", json.dumps([{"label": "a"}])))
    with pytest.raises(DataError, match="did you mean 'caption'"):
        captions_in(written(tmp_path, "list.csv", "id,caption\n1,a\n"), "captoin")


def test_captions_of_a_set_keep_their_columns() -> None:
    table = EmojiSource().training()
    found = captions_of(table)
    assert texts(found) == table.captions["text"].to_pylist()
    assert {"embedding", "topic", "label"} <= set(found.table.column_names)
    assert not {"first", "texts"} & set(found.table.column_names)


def test_captions_of_published_layouts(tmp_path: Path) -> None:
    layout = stablerep_layout(tmp_path / "layout", seeds=2)
    table = CaptionFolders(csv=str(layout / "captions.csv"), root=str(layout), seeds=(1, 2)).training()
    found = captions_of(table)
    assert set(texts(found)) == {caption_text(number) for number in range(12)}
    nothing = FolderSource(str(picture_folder(tmp_path / "pictures"))).training()
    with pytest.raises(DataError, match="no caption to draw"):
        captions_of(nothing)


def test_labels_come_along_where_pictures_agree(tmp_path: Path) -> None:
    source = FolderSource(
        str(picture_folder(tmp_path / "pictures")), captions="sidecar", group="caption", labels="folder"
    )
    found = captions_of(source.training())
    by_text = dict(zip(texts(found), found.table["label"].to_pylist(), strict=True))
    assert len(by_text) == 6 and set(by_text.values()) <= {-1, 0, 1}


def test_smaller_parts_lie_in_larger_ones() -> None:
    every = captions_of(EmojiSource().training())
    few, more = every.limited(20, 0), every.limited(60, 0)
    assert set(texts(few)) < set(texts(more)) and len(few) == 20
    assert texts(more) == [text for text in texts(every) if text in set(texts(more))]
    assert set(texts(every.limited(20, 1))) != set(texts(few))
    assert every.limited(None, 0) is every
