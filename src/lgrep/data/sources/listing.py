"""Which pictures lie below a folder, whatever else lies there."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lgrep.data.notices import reason_of
from lgrep.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


@dataclass
class Listing:
    """What `list_pictures` found; names are relative to the root, with `/`.

    Attributes:
        sizes: picture -> bytes, in the order of the names.
        left_out: (name, reason) of what cannot be a picture: empty files, broken links, pipes, locked folders.
        doubles: (name, name of the same file that is listed before it), through links.
        others: suffix -> number of files that are not taken for pictures.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    doubles: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def check_folder(root: str, setting: str, holds: str) -> Path:
    """The folder that a setting points to.

    Args:
        root: value of the setting; `~` is expanded.
        setting: its name, for messages.
        holds: what the folder should hold, for messages.

    Raises:
        DataError: not set, missing, no folder, or not readable.
    """
    path = Path(root).expanduser()
    advice = f"Point {setting}=... to a folder {holds}"
    if not root.strip():
        raise DataError(f"{setting} is empty. {advice}")
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
    except FileNotFoundError as error:
        raise DataError(f"{setting}={root} does not exist. {advice}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{setting}={root} cannot be read ({reason_of(error)}). {advice}") from error
    if not stat.S_ISDIR(mode):
        raise DataError(f"{setting}={root} is a file, no folder. {advice}")
    return path


def list_pictures(root: Path) -> Listing:
    """Every file below `root` with the suffix of a picture, links followed; hidden files are passed over."""
    listing = Listing()
    seen: dict[tuple[int, int], str] = {}
    for name, entry in sorted(_files(str(root), "", (), listing), key=lambda item: item[0]):
        try:
            about = entry.stat()
        except OSError as error:
            listing.left_out.append((name, "broken link" if entry.is_symlink() else reason_of(error)))
            continue
        if not stat.S_ISREG(about.st_mode):
            listing.left_out.append((name, "no regular file"))
        elif about.st_size == 0:
            listing.left_out.append((name, "empty file"))
        else:
            listing.sizes[name] = about.st_size
            first = seen.setdefault((about.st_dev, about.st_ino), name)
            if first != name:
                listing.doubles.append((name, first))
    return listing


def _files(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...], listing: Listing
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(name, entry) of picture files; a link to a folder that contains it is not followed."""
    try:
        about = os.stat(folder)
        here = (about.st_dev, about.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        listing.left_out.append((prefix, f"folder cannot be read: {reason_of(error)}"))
        return
    for entry in found:
        if _is_folder(entry):
            yield from _files(entry.path, f"{prefix}{entry.name}/", (*above, here), listing)
        elif entry.name.startswith("."):
            continue
        elif (suffix := os.path.splitext(entry.name)[1].lower()) in SUFFIXES:
            yield prefix + entry.name, entry
        else:
            listing.others[suffix or "without suffix"] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
