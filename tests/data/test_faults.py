"""Wrong folders of pictures: named, left out or refused, and counted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from made import encoded, picture_folder

from lgrep.data.notices import shown
from lgrep.data.sources import FolderSource, ShardSource
from lgrep.data.sources.sidecars import NoCaption, clean_caption, read_caption
from lgrep.data.table import Table
from lgrep.errors import DataError


def pictures(root: Path, number: int = 20) -> Path:
    """`root/0.png` ... with a caption each."""
    root.mkdir(exist_ok=True)
    for i in range(number):
        (root / f"{i}.png").write_bytes(encoded(i))
        (root / f"{i}.txt").write_text(f"caption {i}", encoding="utf-8")
    return root


def names(table: Table) -> list[str]:
    return [table.identity(row) for row in range(len(table))]


@pytest.mark.parametrize("source", [FolderSource, ShardSource])
@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("nowhere", r"data\.root=.*nowhere does not exist\. Point data\.root=\.\.\. to a folder"),
        ("file.jpg", r"data\.root=.*file\.jpg is a file, no folder\. Point"),
        ("file.jpg/below", r"data\.root=.*cannot be read \(Not a directory\)"),
        ("loop", r"data\.root=.*cannot be read \(Too many levels of symbolic links\)"),
        ("n" * 300, r"data\.root=.*cannot be read \(File name too long\)"),
    ],
)
def test_a_wrong_root_is_named(tmp_path: Path, source: Any, root: str, message: str) -> None:
    (tmp_path / "file.jpg").write_bytes(encoded(1))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=message):
        source(f"{tmp_path}/{root}").training()


@pytest.mark.parametrize("source", [FolderSource, ShardSource])
def test_an_empty_root_is_not_the_working_folder(source: Any) -> None:
    with pytest.raises(DataError, match=r"data\.root is empty"):
        source(" ").training()


def test_a_locked_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"data\.root=.* cannot be read \(Permission denied\)"):
        FolderSource(str(tmp_path)).training()


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures(tmp_path / "p", 2)
    assert names(FolderSource("~/p").training()) == ["0.png", "1.png"]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no picture \(\.bmp, .*\.webp\)\. Point data\.root="):
        FolderSource(str(tmp_path)).training()
    for name in ("a.heic", "b.heic", "c.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"; it holds 2 \.heic, 1 \.txt\. Point"):
        FolderSource(str(tmp_path)).training()


def fill(root: Path, kind: str) -> None:
    if kind == "empty file":
        (root / "x.png").write_bytes(b"")
    elif kind == "no regular file":
        os.mkfifo(root / "x.png")  # reading it would wait for ever
    elif kind == "folder cannot be read: Permission denied":
        (root / "x.png").mkdir()
    else:
        (root / "x.png").symlink_to("x.png" if kind == "loop" else "gone.png")


@pytest.mark.parametrize(
    "kind", ["empty file", "no regular file", "broken link", "loop", "folder cannot be read: Permission denied"]
)
def test_what_is_no_picture_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    root = pictures(tmp_path / "p")
    fill(root, kind)
    list_folder = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("x.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = FolderSource(str(root))
    table = source.training()
    name, reason = ("x.png/", kind) if "folder" in kind else ("x.png", "broken link" if kind == "loop" else kind)
    assert sorted(names(table)) == sorted(f"{i}.png" for i in range(20))
    assert source.left_out == [(name, reason)]
    assert capsys.readouterr().err == f"note: 1 of 21 pictures in data.root={root} are left out: {name} ({reason})\n"


def test_too_many_are_refused_with_the_first_names(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p", 6)
    for i in range(4):
        (root / f"{i}.png").write_bytes(b"")
    message = (
        r"4 of 6 pictures in data\.root=.*/p cannot be used, more than data\.max_left_out=0\.1: 0\.png \(empty file\), "
        r"1\.png \(empty file\), 2\.png \(empty file\) and 1 more\. Mend them, or type data\.max_left_out=1 to leave"
    )
    with pytest.raises(DataError, match=message):
        FolderSource(str(root)).training()
    assert names(FolderSource(str(root), max_left_out=1.0).training()) == ["4.png", "5.png"]


def test_when_all_are_left_out_no_share_helps(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 pictures in .* can be used: 0\.png \(empty file\)\. Point"):
        FolderSource(str(tmp_path), max_left_out=1.0).training()


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, other = pictures(tmp_path / "p", 2), pictures(tmp_path / "other", 1)
    (root / "linked.jpg").symlink_to(other)  # a folder, whatever its name
    (other / "up").symlink_to(root)
    (root / "self").symlink_to(".")
    assert sorted(names(FolderSource(str(root)).training())) == ["0.png", "1.png", "linked.jpg/0.png"]
    assert capsys.readouterr().err == ""


def test_the_same_file_under_two_names_is_kept_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "p", 2)
    (root / "copy.png").symlink_to("1.png")
    (root / "hard.png").hardlink_to(root / "1.png")
    assert len(FolderSource(str(root)).training()) == 4
    assert "2 of 4 pictures in" in (said := capsys.readouterr().err)
    assert said.endswith("each name is kept: copy.png is 1.png, hard.png is 1.png\n")


def test_a_picture_may_have_any_suffix_of_pictures(tmp_path: Path) -> None:
    """The content decides: this is a PNG file."""
    (tmp_path / "A.JPG").write_bytes(encoded(1))
    table = FolderSource(str(tmp_path)).training()
    assert table.read(0) == encoded(1)


ODD_NAMES = ("e\u0301.png", "\xe9.png", "👩\u200d🚀.png", "two\nlines.png", " space .png", "\u202egnp.png", "\x85.png")


def test_odd_names_are_read_and_printed_on_one_line(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p", 1)
    files = [os.fsencode(name) for name in ODD_NAMES] + [b"caf\xe9.png"]
    for number, file in enumerate(files):
        Path(os.fsdecode(os.fsencode(root) + b"/" + file)).write_bytes(encoded(number + 1))
    table = FolderSource(str(root), labels="none", group="picture").training()
    assert len(table) == 9
    assert {table.read(row) for row in range(9)} == {encoded(i) for i in range(9)}
    for row in range(9):
        place = shown(table.store.locate(row))
        assert len(place.splitlines()) == 1 and "\u202e" not in place
        assert place.encode() and table.identity(row).encode()  # valid UTF-8
    assert {r"two\nlines.png", r"caf\udce9.png", "👩\u200d🚀.png", r"\u202egnp.png"} <= set(names(table))


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        ("txt", None, "no 3.txt or 3.json"),
        ("txt", b"", "the caption in 3.txt is empty"),
        ("txt", b" \n\t", "the caption in 3.txt is empty"),
        ("txt", "\u200b\u200d\ufeff".encode(), "the caption in 3.txt is empty"),
        ("txt", b"caf\xe9", "3.txt is not UTF-8 text"),
        ("json", b"{", "3.json is no JSON (Expecting property name"),
        ("json", b"\xff\xfe\xfd", "3.json is no JSON ("),
        ("json", b"[" * 100_000, "3.json is no JSON ("),
        ("json", b"[]", "3.json has no field 'caption'"),
        ("json", b'{"title": "x"}', "3.json has no field 'caption'"),
        ("json", b'{"caption": null}', "3.json has a caption that is no text (null)"),
        ("json", b'{"caption": 7}', "3.json has a caption that is no text (7)"),
        ("json", b'{"caption": " "}', "the caption in 3.json is empty"),
    ],
)
def test_a_picture_without_caption_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, content: bytes | None, reason: str
) -> None:
    root = pictures(tmp_path / "p")
    (root / "3.txt").unlink()
    if content is not None:
        (root / f"3.{suffix}").write_bytes(content)
    source = FolderSource(str(root), captions="sidecar", group="caption")
    table = source.training()
    assert len(table) == table.num_groups == 19
    assert "3.png" not in names(table)
    (left_out,) = source.left_out
    assert left_out[0] == "3.png" and left_out[1].startswith(reason)
    assert f"note: 1 of 20 pictures in data.root={root} are left out: 3.png ({reason}" in capsys.readouterr().err


def test_many_missing_captions_are_refused_with_both_ways_out(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p")
    for i in range(3):
        (root / f"{i}.txt").unlink()
    message = (
        r"3 of 20 pictures .*max_left_out=0\.1: 0\.png \(no 0\.txt or 0\.json\), .*data\.max_left_out=1 to leave them "
        r"out, or data\.captions=none to train without captions"
    )
    with pytest.raises(DataError, match=message):
        FolderSource(str(root), captions="sidecar").training()
    assert len(FolderSource(str(root), captions="none").training()) == 20


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        ("\ufeffwith a BOM".encode(), "with a BOM"),
        ("caf\xe9".encode("utf-16"), "café"),
        (b"a\0b\0", "a b"),
        ("cafe\u0301".encode(), "café"),
        ("\u202eright to left".encode(), "\u202eright to left"),
        ("naïve \u200d🧑\u200d🚀 猫\r\n".encode(), "naïve \u200d🧑\u200d🚀 猫"),
        (b"long " * 200_000, ("long " * 200_000).strip()),
    ],
)
def test_odd_captions_are_read(tmp_path: Path, content: bytes, caption: str) -> None:
    (tmp_path / "0.txt").write_bytes(content)
    assert read_caption(tmp_path / "0.png") == caption
    text = content.decode("utf-16" if content.startswith(b"\xff\xfe") else "utf-8-sig")
    (tmp_path / "0.txt").unlink()
    (tmp_path / "0.json").write_text("\ufeff" + json.dumps({"caption": text}), encoding="utf-8")
    assert read_caption(tmp_path / "0.png") == caption


def test_halves_of_a_surrogate_pair() -> None:
    assert clean_caption("a \ud800 b") == "a \ufffd b"
    assert clean_caption("\ud83d\udc00") == "🐀"


def test_an_unreadable_caption_file_is_a_missing_caption(tmp_path: Path) -> None:
    (tmp_path / "0.txt").mkdir()
    with pytest.raises(NoCaption, match=r"0\.txt: Is a directory"):
        read_caption(tmp_path / "0.png")


def test_one_long_caption_costs_no_memory_for_the_others(tmp_path: Path) -> None:
    """A NumPy array of strings would take the longest for each of them."""
    root = pictures(tmp_path / "p", 40)
    (root / "0.txt").write_text("x" * 10**6)
    table = FolderSource(str(root), captions="sidecar", group="caption").training()
    assert table.captions.nbytes < 3 * 10**6
    assert [len(table.members(group)) for group in range(40)] == [1] * 40


def test_classes_need_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        DataError, match=r"data\.labels=folder, but data\.root=.* has no sub-folders.*data\.labels=none"
    ):
        FolderSource(str(pictures(tmp_path / "p", 3)), labels="folder").training()
    source = FolderSource(str(picture_folder(tmp_path / "q", 2, 1)), labels="folder", probe_share=0.001)
    assert source.probe() is None
    assert "no online probes: data.probe_share=0.001 draws 0 of 2 pictures" in capsys.readouterr().err
