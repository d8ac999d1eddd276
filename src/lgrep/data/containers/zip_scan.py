"""What a zip archive holds, read from its central directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from lgrep.data.containers import samples
from lgrep.data.containers.ranges import MAX_BYTES, OpenFiles
from lgrep.data.containers.zips import DEFLATED, STORED, members, read_directory, read_member
from lgrep.errors import DataError

PLACE = pa.schema(
    [
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("length", pa.int64()),
        ("method", pa.int32()),
        ("crc", pa.int64()),
    ]
)


def scan_zip(path: Path, rules: samples.Rules, folder_labels: bool = False) -> samples.Scan:
    """The samples of a zip archive; one without a readable directory holds none, and says why.

    Args:
        path: the archive.
        rules: see `Rules`.
        folder_labels: the folder that a picture lies in is its class.

    Raises:
        DataError: it cannot be read.
    """
    left_out: list[tuple[str, str]] = []
    damage = ""

    def walk() -> Iterator[samples.Member]:
        nonlocal damage
        files = OpenFiles()
        try:
            for name, found in members(read_directory(files, path)):
                if name.endswith("/") or name.startswith("__MACOSX/"):
                    continue
                if found.method not in (STORED, DEFLATED):
                    left_out.append((name, "encrypted, or packed by a method that is not read"))
                elif max(found.packed, found.size) > MAX_BYTES:
                    left_out.append((name, f"{max(found.packed, found.size):,} bytes, too many for a picture"))
                elif found.header + found.packed > files.size(path):
                    left_out.append((name, "beyond the end of the archive"))
                else:
                    place = dict(zip(PLACE.names, found, strict=True))
                    yield samples.Member(name, place, partial(read_member, files, path, found))
        except ValueError as error:
            damage = str(error)

    try:
        scan = samples.gather(walk(), rules, PLACE)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    scan.left_out += left_out
    scan.damage, scan.lost = damage, None if damage else 0.0
    if folder_labels:
        folders = [os.path.basename(os.path.dirname(name)) or None for name in scan.rows["name"].to_pylist()]
        place = scan.rows.column_names.index("label")
        scan.rows = scan.rows.set_column(place, "label", pa.array(folders, pa.string()))
    return scan
