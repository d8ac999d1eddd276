"""Files that are whole at any time: the old or the new content is seen, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from lgrep.errors import LgrepError


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


def check_writable(folder: Path, setting: str) -> None:
    """Makes a folder if it is missing, and says before the work begins if nothing can be written there.

    Raises:
        LgrepError: naming the setting.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LgrepError(f"cannot write to {setting}={folder} ({error.strerror}). Type {setting}=DIR") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
