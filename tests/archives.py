"""Sets in archives and Parquet files, made for tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from made import encoded

CLASSES = ("cat", "dog")
Files = Iterable[tuple[str, bytes]]


def write_tar(path: Path, files: Files, format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Files, method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def members(pictures: int = 36) -> list[tuple[str, bytes]]:
    """Pictures of 12 captions in folders that are classes, with a `.txt` and a `.cls` each."""
    files = []
    for number in range(pictures):
        stem = f"{CLASSES[number % 2]}/{number:04d}"
        files += [(f"{stem}.jpg", encoded(number, "JPEG")), (f"{stem}.txt", f"caption {number % 12}".encode())]
        files += [(f"{stem}.cls", CLASSES[number % 2].encode())]
    return files


def write_parquet(path: Path, pictures: int = 36) -> Path:
    columns = {
        "image": [{"bytes": encoded(i), "path": None} for i in range(pictures)],
        "text": [f"caption {i % 12}" for i in range(pictures)],
        "label": [i % 2 for i in range(pictures)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def archives(folder: Path) -> Path:
    """What the commands of the documentation expect: 16 tar shards, a zip archive and a Parquet file."""
    for number in range(16):
        write_tar(folder / f"shard-{number:02d}.tar", members(2))
    write_zip(folder / "0.zip", members(4))
    write_parquet(folder / "train-0.parquet")
    return folder
