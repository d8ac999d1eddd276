"""Entries of a JSON file that is too long to be held: a list, or a mapping, of values that each fit in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, TextIO

from lgrep.data.notices import reason_of, shown
from lgrep.data.reading_bar import reading_bar
from lgrep.errors import DataError

_CHUNK = 2**22  # characters
_LONGEST = 2**22  # characters of a text or number; an error further from the end of what is held is no matter of more
_TAIL = 3  # characters after a number that show whether it goes on (as 1 does in 1e+9)
_SPACE = " \t\n\r"


def json_entries(path: Path, setting: str) -> Iterator[tuple[str | None, Any]]:
    """(key, value) of a mapping, or (None, item) of a list, one after another.

    Args:
        path: UTF-8 JSON.
        setting: what names it in messages.

    Raises:
        DataError: not readable, no UTF-8, no JSON (with the place), cut short, or something else than a mapping or list.
    """
    place = f"{setting}={shown(path)}"
    try:
        size = path.stat().st_size
        with path.open(encoding="utf-8-sig") as file, reading_bar(f"reading {shown(path.name)}", size) as advance:
            text = _Text(file, advance)
            try:
                yield from _entries(text)
            except (JSONDecodeError, RecursionError) as error:
                what = getattr(error, "msg", "nested too deep")
                where = text.before + getattr(error, "pos", text.pos)
                raise DataError(
                    f"{place} is no whole JSON file: {what} at character {where:,}. Copy or write it again"
                ) from error
    except OSError as error:
        raise DataError(f"{place} cannot be read ({reason_of(error)}). Type {setting}=FILE.json") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is no UTF-8 text ({error.reason}). Convert it, e.g. with iconv") from error


class _Text:
    """The part of a text file that is being decoded."""

    def __init__(self, file: TextIO, advance: Any) -> None:
        self.file, self.advance = file, advance
        self.data, self.pos, self.before, self.ended = "", 0, 0, False

    def more(self) -> bool:
        """Take in at least as much as is held, so that a long value is not decoded over and over."""
        rest = self.data[self.pos :]
        added = self.file.read(max(_CHUNK, len(rest)))
        self.before += self.pos
        self.data, self.pos, self.ended = rest + added, 0, not added
        self.advance(len(added))
        return not self.ended

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self.pos < len(self.data) and self.data[self.pos] in _SPACE:
                self.pos += 1
            if self.pos < len(self.data):
                return self.data[self.pos]
            if not self.more():
                return ""

    def take(self, allowed: str) -> str:
        """The next character, which must be one of `allowed`."""
        found = self.peek()
        if not found or found not in allowed:
            raise JSONDecodeError(f"expected {' or '.join(allowed)}", self.data, self.pos)
        self.pos += 1
        return found

    def value(self, decoder: JSONDecoder) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = decoder.raw_decode(self.data, self.pos)
            except JSONDecodeError as error:
                if len(self.data) - error.pos > _LONGEST or not self.more():  # else the value may go on in the file
                    raise
                continue
            if end + _TAIL <= len(self.data) or not isinstance(value, int | float):
                self.pos = end
                return value
            taken = end - self.pos
            if not self.more():  # it is the last one
                self.pos += taken
                return value


def _entries(text: _Text) -> Iterator[tuple[str | None, Any]]:
    decoder = json.JSONDecoder()
    mapping = text.take("[{") == "{"
    closing = "}" if mapping else "]"
    if text.peek() == closing:
        text.pos += 1
    else:
        separator = ","
        while separator == ",":
            key = None
            if mapping:
                key = text.value(decoder)
                if not isinstance(key, str):
                    raise JSONDecodeError("expected a key in quotes", text.data, text.pos)
                text.take(":")
            yield key, text.value(decoder)
            separator = text.take("," + closing)
    if text.peek():
        raise JSONDecodeError("something follows the end", text.data, text.pos)
