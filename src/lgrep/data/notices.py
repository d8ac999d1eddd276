"""Remarks about the data that do not stop a run; names and reasons as they are printed."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

from lgrep.ranks import rank

_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}  # control characters, bytes that are no UTF-8, line separators
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def notice(text: str) -> None:
    """Print one line to stderr, from the first process only."""
    if rank() == 0:
        print(f"note: {text}", file=sys.stderr, flush=True)


def shown(name: object) -> str:
    r"""A file name for messages and logs: one line of valid UTF-8, whatever bytes the name has.

    >>> shown("two\nlines"), shown(b"caf\xe9".decode("utf-8", "surrogateescape"))
    ('two\\nlines', 'caf\\udce9')
    """
    return "".join(_escape(letter) for letter in str(name))


def examples(items: Sequence[tuple[str, str]], most: int = 3) -> str:
    """The first few (name, reason) pairs as text.

    >>> examples([("a.png", "empty file"), ("b.png", "empty file")], most=1)
    'a.png (empty file) and 1 more'
    """
    listed = [f"{shown(name)} ({reason})" for name, reason in items[:most]]
    return ", ".join(listed) + (f" and {len(items) - most:,} more" if len(items) > most else "")


def reason_of(error: BaseException) -> str:
    """Why a file cannot be read, without its name.

    >>> reason_of(PermissionError(13, "Permission denied", "a.png"))
    'Permission denied'
    """
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _escape(letter: str) -> str:
    if unicodedata.category(letter) in _ESCAPED or letter in _BIDI:
        return letter.encode("unicode_escape").decode()
    return letter
