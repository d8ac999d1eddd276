"""Captions in files beside the pictures."""

from __future__ import annotations

import os
from pathlib import Path

from lgrep.data.caption_text import NoCaption, clean_caption, decode_text, json_field
from lgrep.data.notices import reason_of

__all__ = ["NoCaption", "clean_caption", "read_caption"]


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
            text = clean_caption(decode_text(data) if suffix == ".txt" else json_field(data))
        except NoCaption as error:
            raise NoCaption(f"{path.name} {error}") from error
        if not text:
            raise NoCaption(f"the caption in {path.name} is empty")
        return text
    raise NoCaption(f"no {stem}.txt or {stem}.json")
