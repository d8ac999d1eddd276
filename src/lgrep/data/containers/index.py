"""Indices of containers: where every picture lies, made once, kept as memory-mapped tables and used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lgrep.data.arrow_files import INDEX_FOLDER, user_cache
from lgrep.data.containers.joining import joined, utf8_name
from lgrep.data.containers.samples import Scan
from lgrep.data.reading_bar import reading_bar
from lgrep.data.shards import FILES, write_tables
from lgrep.data.stores import ImageStore
from lgrep.data.table import Table, open_tables
from lgrep.data.workers import usable_cores
from lgrep.errors import DataError

_FORMAT = 1
_SERIAL = 2**28  # bytes of containers that are not worth several processes
_PROCESSES = 16


@dataclass(frozen=True)
class Container:
    """A kind of file that holds pictures.

    Attributes:
        kind: `tar`, `zip`, ...
        scan: what one file holds; goes to other processes.
        store: reads pictures, given the files, the rows of the index, and how many numbers of the column `shard` each
            file has.
        settings: all that the index depends on beside the files (plain JSON values).
        group: which pictures share a caption: `picture` none, `caption` those of equal text.
        class_names: of whole-number labels, where the files know them.
    """

    kind: str
    scan: Callable[[Path], Scan]
    store: Callable[[Sequence[Path], pa.Table, Sequence[int]], ImageStore]
    settings: dict[str, Any]
    group: Literal["picture", "caption"] = "picture"
    class_names: Sequence[str] = ()


@dataclass
class Index:
    """An opened index.

    Attributes:
        table: all pictures that can be used.
        class_names: of the column `label`; empty without labels.
        found: number of samples, with those that cannot be used.
        left_out: how many cannot be used (damage: estimated).
        examples: (picture, reason) of the first of them.
        damage: one line per damaged file.
        extensions: that occur in the containers.
    """

    table: Table
    class_names: list[str]
    found: int
    left_out: int
    examples: list[tuple[str, str]]
    damage: list[str]
    extensions: list[str]


def open_index(files: Sequence[Path], container: Container, name: str, cache: str | None) -> Index:
    """The pictures in some files; scans them unless there is an index of files of these names, sizes and dates.

    Args:
        files: containers.
        container: their kind.
        name: of the set.
        cache: folder for indices; None: beside the files, or else the user's cache folder.

    Raises:
        DataError: a file cannot be read or the index cannot be written.
    """
    state = [[utf8_name(path.name), about.st_size, about.st_mtime_ns] for path in files for about in [path.stat()]]
    places = _places(files, container, cache)
    for place in places:
        if (index := _reuse(place, state, files, container)) is not None:
            return index
    folder = places[-1]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):  # the other processes of a run wait, and find the index made
            index = _reuse(folder, state, files, container)
            if index is None:
                _make(folder, state, files, container, name)
    except OSError as error:
        raise DataError(
            f"cannot write the index {folder} ({error.strerror or error}). Type data.index=DIR with a folder that has "
            "space"
        ) from error
    return index or _open(folder, state, files, container)


def _places(files: Sequence[Path], container: Container, cache: str | None) -> list[Path]:
    """Where the index may be; it is written to the last one. The same for the same files and settings."""
    parent = Path(os.path.commonpath([path.absolute().parent for path in files]))
    names = [path.absolute().relative_to(parent).as_posix() for path in files]
    settings = [_FORMAT, container.kind, container.group, container.settings, names]

    def key(*more: str) -> str:
        text = json.dumps([*settings, *more], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    if cache is not None:
        return [Path(cache).expanduser() / key(str(parent))]
    beside = parent / INDEX_FOLDER / key()
    if os.access(parent, os.W_OK):
        return [beside]
    return [beside, user_cache() / "indices" / key(str(parent))]


def _reuse(folder: Path, state: list[list[Any]], files: Sequence[Path], container: Container) -> Index | None:
    try:
        return _open(folder, state, files, container)
    except (OSError, ValueError, KeyError, TypeError, DataError):  # none yet, of other files, or damaged: made anew
        return None


def _open(folder: Path, state: list[list[Any]], files: Sequence[Path], container: Container) -> Index:
    about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    if about["files"] != state:
        raise DataError(f"{folder} is the index of other files")
    return Index(
        open_tables(folder, about, lambda rows: container.store(files, rows, about["parts"])),
        about["class_names"],
        about["found"],
        about["left_out"],
        [(str(name), str(reason)) for name, reason in about["examples"]],
        about["damage"],
        about["extensions"],
    )


def _make(folder: Path, state: list[list[Any]], files: Sequence[Path], container: Container, name: str) -> None:
    scans = _scan_all(files, container, [size for _, size, _ in state])
    pictures, captions, about = joined(files, scans, container.group, container.class_names)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        write_tables(partial, pictures, captions)
        digest = hashlib.sha256()
        for file in FILES:
            with (partial / file).open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        about |= {"format": _FORMAT, "name": name, "content_hash": digest.hexdigest()[:16], "files": state}
        (partial / "index.json").write_text(json.dumps(about, ensure_ascii=True), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _scan_all(files: Sequence[Path], container: Container, sizes: list[int]) -> list[Scan]:
    processes = min(usable_cores(), len(files), _PROCESSES) if sum(sizes) > _SERIAL else 1
    scans: list[Scan] = []
    with reading_bar(f"Indexing {len(files):,} {container.kind} files", sum(sizes)) as advance:
        if processes <= 1:
            results: Iterator[Scan] = map(container.scan, files)
            for size, scan in zip(sizes, results, strict=True):
                scans.append(scan)
                advance(size)
        else:
            with ProcessPoolExecutor(processes) as pool:
                for size, scan in zip(sizes, pool.map(container.scan, files), strict=True):
                    scans.append(scan)
                    advance(size)
    return scans


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, where the file system can."""
    with path.open("w") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield
