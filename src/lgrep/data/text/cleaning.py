"""How CLIP tidies a caption before it is split into tokens."""

from __future__ import annotations

import html
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType

from lgrep.errors import ConfigError


def clean_text(text: str) -> str:
    """The caption with broken encodings repaired, HTML entities resolved twice, blanks collapsed, lower-cased.

    The rule of OpenAI's CLIP and of open_clip's `lower` cleaning.

    >>> clean_text("  A dog &amp;amp; a   CAT ")
    'a dog & a cat'
    """
    if not _is_tidy(text):
        text = _repaired(text)
    return " ".join(text.split()).lower()


@lru_cache(maxsize=64)  # the views of a sample clean the same caption one after the other
def _repaired(text: str) -> str:
    return html.unescape(html.unescape(str(_ftfy().fix_text(text))))


def _is_tidy(text: str) -> bool:
    """Whether ftfy and html leave the text as it is: printable ASCII without `&` (tested), most captions."""
    return text.isascii() and text.isprintable() and "&" not in text


@cache
def _ftfy() -> ModuleType:
    return needed("ftfy")


def needed(module: str) -> ModuleType:
    """A module of the extra `clip`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"CLIP's text needs {module}: pip install 'lgrep[clip]', or type text=none") from error
