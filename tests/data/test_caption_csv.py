"""Caption files: everything that Python's csv reader accepts, and a named line for the rest."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from lgrep.data import caption_csv
from lgrep.data.caption_csv import read_caption_csv
from lgrep.errors import DataError


def published(file: Path) -> list[tuple[str, str]]:
    """The rows that the published loader keeps (it opens the file as UTF-8; the BOM is our addition)."""
    with file.open(encoding="utf-8-sig", newline="") as handle:
        return [(row[0], row[1]) for row in csv.reader(handle) if row and row[0].endswith((".png", ".jpg", ".jpeg"))]


def read(file: Path) -> list[tuple[str, str]]:
    rows = read_caption_csv(file)
    return list(zip(rows.path.to_pylist(), rows.text.to_pylist(), strict=True))


@pytest.mark.parametrize(
    "content",
    [
        b"filename,caption\na.png,x\nb.jpg,y\nc.jpeg,z\nd.PNG,no\ne.webp,no\n",
        b'a.png,"two\nlines, ""quoted"""\r\nb.png,5" pipe\r\n',
        b'a.png,"abc"def\nb.png, "x"\n',
        b"\xef\xbb\xbfa.png,with a byte order mark\nb.png,x",
        b'a.png,x\n\n\nb.png,\nc.png,""\nd.png,NA\ne.png,null\n',
        b"a.png,x\rb.png,y\r",
        "a.png,naïve 猫 \u202e\U0001f9d1\u200d\U0001f680\n".encode(),
        b"a.png,x,further,columns\nb.png,y,and,more\n",
        b"a.png,rows of,different\nb.png,length\nc.png,are,taken,too\n",
        b"a.png,nul \x00 byte\n",
        b"header\xc3\xa9,x,y\na.png,b\n",
    ],
)
def test_what_the_published_loader_keeps_is_kept(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "captions.csv"
    file.write_bytes(content)
    assert read(file) == published(file)


@pytest.mark.parametrize("ragged", [False, True])
def test_many_rows_over_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ragged: bool) -> None:
    monkeypatch.setattr(caption_csv, "_BLOCK", 4096)
    monkeypatch.setattr(caption_csv, "_ROWS", 100)
    file = tmp_path / "captions.csv"
    rng = random.Random(0)
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        for number in range(1500):
            text = "".join(rng.choices('ab ",\n\r猫é', k=rng.randrange(60)))
            more = ["more"] * (ragged and number == 1400)
            writer.writerow([f"{number}.png" if number % 7 else f"{number}.txt", text, *more])
    rows = read_caption_csv(file)
    assert read(file) == published(file)
    assert (rows.dropped, rows.first_dropped) == (215, "0.txt")


def test_a_row_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_csv, "_BLOCK", 256)
    file = tmp_path / "captions.csv"
    before = csv.field_size_limit()
    file.write_text("a.png,short\nb.png," + "long " * 100_000 + "\nc.png,short\n")
    assert read(file) == [("a.png", "short"), ("b.png", "long " * 100_000), ("c.png", "short")]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty; its rows should read: relative/path\.png,caption"),
        (b"\n\n", r"is empty"),
        (b"a.png,x\nb.png\n", r"line 2 has one column \('b\.png'\)"),
        (b"a.png\tx\nb.png\ty\n", r"line 1 has one column.*separated by tabs, commas are needed"),
        (b"a.png;x\nb.png;y\n", r"line 1 has one column.*separated by semicolons"),
        (b"a.png,x\nb.png,caf\xe9\n", r"line 2 is no UTF-8.*iconv -f LATIN1.*data\.csv=NEW\.csv"),
        ("a.png,x\n".encode("utf-16"), r"line 1 is no UTF-8"),
        (b'a.png,x\nb.png,"never\nclosed\nc.png,y\n', r"a quote opened in line 2 is never closed"),
        (b"x,caption\na.webp,y\n", r"column 1 of none of its 2 rows ends in \.png, \.jpg, \.jpeg \(the first: 'x'\)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "captions.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.csv=.*captions\.csv") as caught:
        read_caption_csv(file)
    assert caught.match(message)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(DataError, match=r"cannot be read.*Type data\.csv="):
            read_caption_csv(path)
