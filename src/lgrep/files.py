"""Files that are whole at any time: the old or the new content is seen, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path to write to; it takes the place of `path` at the end, and is removed if writing fails.

    For one writer at a time. Nothing that looks for files by their suffix finds it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
