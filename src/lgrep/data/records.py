"""Checks on the records of published files, which may hold anything."""

from __future__ import annotations

from typing import Any

from lgrep.data.caption_text import clean_caption


class Unusable(ValueError):
    """A record that no picture can be made of; the message is a short reason."""


def tidy_caption(text: Any) -> str:
    """`clean_caption` for a value of a published record; None is no text.

    Raises:
        Unusable: not a text.
    """
    if type(text) is str and text.isascii() and text.isprintable():
        return text.strip()  # most are such; there is nothing else to tidy
    if text is None:
        return ""
    if not isinstance(text, str):
        raise Unusable("a caption is no text")
    return clean_caption(text)


def tidy_captions(texts: Any, keep_empty: bool) -> list[str]:
    """The captions of a picture that are not empty; [""] when there are none and such pictures are kept.

    Raises:
        Unusable: no captions, or something else than texts.
    """
    listed = [texts] if isinstance(texts, str) or texts is None else texts
    if not isinstance(listed, (list, tuple)):
        raise Unusable("the captions are no list")
    found = [tidy for tidy in map(tidy_caption, listed) if tidy]
    if not found and not keep_empty:
        raise Unusable("without a caption")
    return found or [""]


def safe_path(path: Any) -> str:
    """A relative path that stays below the folder it is joined to.

    Raises:
        Unusable: anything else.
    """
    if not isinstance(path, str) or not path.strip("/. ") or "\0" in path:
        raise Unusable("no path")
    if path.startswith("/") or ".." in path.split("/"):
        raise Unusable("a path that leaves the folder of the pictures")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise Unusable("a path that is no Unicode") from error
    return path
