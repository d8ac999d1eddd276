"""Captions in files beside the pictures."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

from lgrep.data.notices import reason_of

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}


class NoCaption(ValueError):
    """A picture has no caption that can be used; the message is a short reason."""


def read_caption(picture: Path) -> str:
    """The caption of `name.png`: the text of `name.txt`, or the field `caption` of `name.json`.

    UTF-8 or UTF-16 with a byte order mark; see `clean_caption` for what is done to the text.

    Raises:
        NoCaption: neither file, not readable, not in the format, or nothing visible in it.
    """
    stem = os.path.splitext(picture.name)[0]
    for suffix in (".txt", ".json"):
        path = picture.with_name(stem + suffix)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NoCaption(f"{path.name}: {reason_of(error)}") from error
        try:
            text = clean_caption(_text(data) if suffix == ".txt" else _field(data))
        except NoCaption as error:
            raise NoCaption(f"{path.name} {error}") from error
        if not text:
            raise NoCaption(f"the caption in {path.name} is empty")
        return text
    raise NoCaption(f"no {stem}.txt or {stem}.json")


def clean_caption(text: str) -> str:
    r"""Valid Unicode in composed form (NFC), outer blanks stripped; empty when nothing in it is visible.

    >>> clean_caption("\ufeff cafe\u0301\0 "), clean_caption("\u200b\u200b"), clean_caption("a \ud800 b")
    ('café', '', 'a � b')
    """
    valid = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # joins halves of a pair
    tidy = unicodedata.normalize("NFC", valid.replace("\0", " ").replace("\ufeff", "")).strip()
    return tidy if any(unicodedata.category(letter) not in _INVISIBLE for letter in tidy) else ""


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8")
    except UnicodeDecodeError as error:
        raise NoCaption("is not UTF-8 text") from error


def _field(data: bytes) -> str:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # a wrong encoding is a ValueError too
        raise NoCaption(f"is no JSON ({str(error)[:80]})") from error
    if not isinstance(content, dict) or "caption" not in content:
        raise NoCaption("has no field 'caption'")
    if not isinstance(content["caption"], str):
        raise NoCaption(f"has a caption that is no text ({json.dumps(content['caption'])[:30]})")
    return content["caption"]
