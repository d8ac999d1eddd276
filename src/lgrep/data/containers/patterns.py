"""Lists of files, written as a folder, a glob or brace pattern, or a list of these."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lgrep.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # names that one pattern may stand for


def expand_braces(pattern: str) -> list[str]:
    """What a shell makes of braces.

    >>> expand_braces("a-{008..010}.tar"), expand_braces("{x,y}/1.tar")
    (['a-008.tar', 'a-009.tar', 'a-010.tar'], ['x/1.tar', 'y/1.tar'])

    Raises:
        DataError: more than a million names.
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    choices, ends = _choices(found[1]), expand_braces(pattern[found.end() :])
    if len(choices) * len(ends) > _MOST:
        raise DataError(f"{pattern!r} stands for more than {_MOST:,} files; give fewer")
    return [pattern[: found.start()] + choice + end for choice in choices for end in ends]


def list_files(given: str | Sequence[str], suffixes: Sequence[str], setting: str) -> list[Path]:
    """Files in the order given; those of a folder or a glob pattern by name.

    Args:
        given: folder (searched recursively), file, pattern, or several of these.
        suffixes: endings that files of a folder must have.
        setting: its name, for messages.

    Raises:
        DataError: nothing there, or a file that is listed is missing or listed twice.
    """
    advice = f"Type {setting}=DIR, {setting}=FILE{suffixes[0]}, or '{setting}=\"DIR/name-{{0000..0099}}{suffixes[0]}\"'"
    files: list[Path] = []
    missing: list[str] = []
    for pattern in [given] if isinstance(given, str) else given:
        for name in _names(os.path.expanduser(pattern)):
            found = _matching(name, suffixes)
            files += found
            missing += [] if found else [name]
    if missing:
        raise DataError(
            f"{setting}: {missing[0]} {_what_is_wrong(missing[0], suffixes)}"
            f"{f' (and {len(missing) - 1:,} more of {len(missing) + len(files):,})' * bool(missing[1:])}. {advice}"
        )
    if not files:
        raise DataError(f"{setting} is empty. {advice}")
    repeated = len(files) - len(set(files))
    if repeated:
        raise DataError(f"{setting} names {repeated:,} of {len(files):,} files twice. Name every file once")
    return files


def _names(pattern: str) -> list[str]:
    if not pattern.strip():
        return []
    return [pattern] if Path(pattern).exists() else expand_braces(pattern)


def _choices(inner: str) -> list[str]:
    limits = _RANGE.fullmatch(inner)
    if limits is None:
        return inner.split(",")
    first, last = int(limits[1]), int(limits[2])
    if abs(last - first) >= _MOST:
        raise DataError(f"{{{inner}}} stands for more than {_MOST:,} names; give fewer")
    width = len(limits[1]) if limits[1].startswith("0") or len(limits[1]) == len(limits[2]) else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _matching(name: str, suffixes: Sequence[str]) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return sorted(file for file in _below(path) if file.name.lower().endswith(tuple(suffixes)))
    if path.is_file():
        return [path]
    return sorted(Path(found) for found in glob.glob(name, recursive=True)) if glob.has_magic(name) else []


def _below(root: Path) -> Iterator[Path]:
    """Every file but hidden ones and those of hidden folders."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / file for file in files if not file.startswith("."))


def _what_is_wrong(name: str, suffixes: Sequence[str]) -> str:
    if Path(name).is_dir():
        return f"holds no file that ends in {' or '.join(suffixes)}"
    return "matches no file" if glob.has_magic(name) else "does not exist"
