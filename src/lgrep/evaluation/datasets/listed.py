"""Lists of labelled pictures, as the files of a data set give them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lgrep.data.caption_text import NoCaption, decode_text
from lgrep.data.notices import reason_of, shown
from lgrep.errors import DataError

PARTS = ("train", "validation", "test")
Keys = str | tuple[str, ...]  # class of a picture as its files write it; several where labels are not exclusive


@dataclass
class Listed:
    """N pictures with the classes that a file gives them.

    Attributes:
        files: paths below the base folder; names of the pictures where `pixels` holds them.
        keys: their classes as written.
        parts: `train`, `validation`, `test`, or "" for one that a rule decides; empty: what the caller says.
        captions: texts of every picture; empty: none.
        pixels: uint8 [N, H, W] or [N, H, W, 3] in place of files.
        sizes: file -> bytes, as far as they are known.
        names: class -> what people call it, where the files say so.
        remarks: what was left out, one line each.
    """

    files: list[str]
    keys: list[Keys]
    parts: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    pixels: Any = None
    sizes: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.files) != len(self.keys):
            raise DataError(f"{len(self.files):,} pictures with {len(self.keys):,} labels; one label each is needed")


def read_text(path: Path) -> str:
    """Content of a label file: UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    try:
        return decode_text(path.read_bytes()).removeprefix("\ufeff")
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read ({reason_of(error)})") from error
    except NoCaption as error:
        raise DataError(
            f"{shown(path)} is not UTF-8 text. Convert it, e.g. iconv -f LATIN1 -t UTF-8 OLD > NEW, and put NEW in its place"
        ) from error


def read_lines(path: Path, columns: int | None = None, separator: str | None = None, skip: int = 0) -> list[list[str]]:
    """The fields of every line that is not empty.

    Args:
        path: text file.
        columns: cut a line into at most so many fields; None: into all.
        separator: between fields; None: blanks.
        skip: lines before the first row.

    Raises:
        DataError: see `read_text`.
    """
    most = -1 if columns is None else columns - 1
    rows = read_text(path).splitlines()[skip:]
    return [[part.strip() for part in row.strip().split(separator, most)] for row in rows if row.strip()]


def filled(template: str, fields: Sequence[str], place: str) -> str:
    """A template with the fields of a line.

    Raises:
        DataError: the line has too few fields.
    """
    try:
        return template.format(*fields)
    except IndexError as error:
        line = " ".join(fields)[:60]
        raise DataError(f"{place} has too few columns ('{line}'); '{template}' is filled from them") from error


def readable(key: str) -> str:
    """A class as people would call it.

    >>> [readable(key) for key in ("001.Black_footed_Albatross", "/c/cavern/indoor", "AnnualCrop", "Boeing 737-200")]
    ['Black footed Albatross', 'cavern indoor', 'annual crop', 'Boeing 737-200']
    """
    text = re.sub(r"^/?\w/(?=\w)", "", re.sub(r"^\d+[._-](?=\D)", "", key))
    if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", text):
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
    return re.sub(r"[_/]+", " ", text).strip() or key


def class_order(key: str) -> tuple[int, int, str]:
    """Sorts whole numbers by value, before texts in the order of their letters' codes."""
    return (0, int(key), key) if key.isascii() and key.isdigit() else (1, 0, key)
