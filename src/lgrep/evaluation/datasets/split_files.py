"""Index lists: which picture belongs to which part, from a user's file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lgrep.data.notices import shown
from lgrep.errors import DataError
from lgrep.evaluation.datasets.listed import PARTS, read_lines, read_text

ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def read_split_files(path: Path) -> dict[str, str]:
    """File -> part.

    Args:
        path: a CSV file with the columns `file` and `part`, or a folder of `train.txt`, `validation.txt` and `test.txt`
            (absent ones are empty) with one path per line.

    Raises:
        DataError: no such file, another part, or a picture in two parts.
    """
    if path.is_dir():
        rows = [(row[0], file.stem) for file in sorted(path.glob("*.txt")) for row in read_lines(file, 1)]
    elif path.is_file():
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        if not {"file", "part"} <= set(reader.fieldnames or ()):
            raise DataError(f"splits={shown(path)} must have the columns file and part")
        rows = [(row["file"], row["part"]) for row in reader]
    else:
        raise DataError(f"splits={shown(path)} does not exist: give a CSV file with the columns file and part")
    found: dict[str, str] = {}
    for file, part in rows:
        known = ALIASES.get(part.strip().lower()) if part else None
        if known is None:
            raise DataError(f"splits={shown(path)}: '{shown(part)}' is none of {', '.join(PARTS)}")
        if found.setdefault(file, known) != known:
            raise DataError(f"splits={shown(path)}: {shown(file)} is in {found[file]} and in {known}")
    if not found:
        raise DataError(f"splits={shown(path)} lists no picture")
    return found
