"""Files are replaced whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lgrep.errors import LgrepError
from lgrep.files import check_writable, replacing, write_text


def torn(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise OSError("full")


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old"
        assert list(tmp_path.glob("*.csv")) == [path]
        partial.write_text("new")
    assert path.read_text() == "new"
    with pytest.raises(OSError, match="full"):
        torn(path)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "gone" / "a.txt", "text")
    assert not (tmp_path / "gone").exists()


def test_a_place_that_takes_no_files_is_named_with_its_setting(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "out")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(LgrepError, match=r"cannot write to out=.*file/x \(Not a directory\)\. Type out=DIR"):
        check_writable(tmp_path / "file" / "x", "out")
