"""Texts of captions as files hold them."""

from __future__ import annotations

import json
import unicodedata

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}


class NoCaption(ValueError):
    """A picture has no caption that can be used; the message is a short reason."""


def clean_caption(text: str) -> str:
    r"""Valid Unicode in composed form (NFC), outer blanks stripped; empty when nothing in it is visible.

    >>> clean_caption("\ufeff cafe\u0301\0 "), clean_caption("\u200b\u200b"), clean_caption("a \ud800 b")
    ('café', '', 'a � b')
    """
    valid = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # joins halves of a pair
    tidy = unicodedata.normalize("NFC", valid.replace("\0", " ").replace("\ufeff", "")).strip()
    return tidy if any(unicodedata.category(letter) not in _INVISIBLE for letter in tidy) else ""


def decode_text(data: bytes) -> str:
    """A text file's content: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        NoCaption: another encoding.
    """
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8")
    except UnicodeDecodeError as error:
        raise NoCaption("is not UTF-8 text") from error


def json_field(data: bytes, name: str = "caption", numbers: bool = False) -> str:
    """The text of a field of a JSON mapping.

    Args:
        data: content of a JSON file.
        name: of the field.
        numbers: take whole numbers too, as text.

    Raises:
        NoCaption: no JSON, no such field, or another type.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # a wrong encoding is a ValueError too
        raise NoCaption(f"is no JSON ({str(error)[:80]})") from error
    if not isinstance(content, dict) or name not in content:
        raise NoCaption(f"has no field '{name}'")
    value = content[name]
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise NoCaption(f"has a {name} that is no text ({json.dumps(value)[:30]})")
    return value
