"""What a picture set must fulfil before training relies on it; everything here is read from tables, not from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.errors import DataError

_INTEGERS = ("group", "shard", "offset", "size", "label", "family")
_PICTURES = ("id", "group", "shard", "offset", "size")
_CAPTIONS = ("id", "text")


def check_description(path: Path, about: Any, version: int) -> dict[str, Any]:
    """The content of `set.json` with its types as promised.

    Raises:
        DataError: not a mapping, something missing or of the wrong type, or another format.
    """
    kinds = {"format": int, "name": str, "shards": list, "content_hash": str}
    if not isinstance(about, dict):
        raise DataError(f"{path} is damaged: it holds no mapping. Write the set again (lgrep.data.shards.write_set)")
    missing = [key for key in sorted(kinds) if key not in about]
    if missing:
        raise DataError(f"{path} is damaged: it lacks {', '.join(missing)}")
    if about["format"] != version:
        raise DataError(f"{path.parent} is in format {about['format']}; this version of lgrep reads format {version}")
    wrong = [key for key, kind in kinds.items() if not isinstance(about[key], kind)]
    if wrong or not all(isinstance(name, str) and name == Path(name).name for name in about["shards"]):
        raise DataError(f"{path} is damaged: {', '.join(wrong or ['shards'])} cannot be used as it is")
    return about


def check_tables(folder: Path, about: dict[str, Any], pictures: pa.Table, captions: pa.Table) -> None:
    """Refuse tables that do not fit each other or the description.

    Raises:
        DataError: a missing column, a wrong type, nulls, groups, labels or shards out of range, other row counts.
    """
    _check_columns(folder / "pictures.arrow", pictures, _PICTURES)
    _check_columns(folder / "captions.arrow", captions, _CAPTIONS)
    for key, table in (("pictures", pictures), ("captions", captions)):
        if about.get(key, len(table)) != len(table):
            raise DataError(f"{folder / key}.arrow has {len(table):,} rows, set.json says {about[key]}. {_COPY}")
    place = folder / "pictures.arrow"
    _check_range(place, pictures, "group", 0, len(captions) - 1, "rows of captions.arrow")
    _check_range(place, pictures, "shard", 0, len(about["shards"]) - 1, "files of set.json")
    _check_range(place, pictures, "label", -1, 2**31 - 1, "-1 means no label")


def check_places(folder: Path, shards: list[Path], pictures: pa.Table) -> None:
    """Refuse shard files that end before the last of their pictures.

    Raises:
        DataError: names the file, its size, and how many pictures are lost.
    """
    shard, offset, size = (pictures[name].to_numpy().astype(np.int64) for name in ("shard", "offset", "size"))
    lengths = np.array([path.stat().st_size for path in shards], dtype=np.int64)
    negative = int(((offset < 0) | (size < 0)).sum())
    if negative:
        raise DataError(f"{folder / 'pictures.arrow'}: {negative:,} pictures have a negative offset or size. {_COPY}")
    beyond = offset + size > lengths[shard] if len(shards) else np.zeros(0, dtype=bool)
    if beyond.any():
        number = int(shard[beyond][0])
        needed = int((offset + size)[shard == number].max())
        raise DataError(
            f"{shards[number]} is cut short: it has {lengths[number]:,} bytes and its pictures need {needed:,}; "
            f"{int(beyond.sum()):,} of {len(shard):,} pictures of the set are lost. {_COPY}"
        )


_COPY = "Copy the set again, or write it again (lgrep.data.shards.write_set)"


def _check_columns(path: Path, table: pa.Table, needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(table.column_names)}. {_COPY}"
        )
    for name in table.column_names:
        kind = table.schema.field(name).type
        wanted = "integers" if name in _INTEGERS else "text" if name in ("id", "text") else None
        fits = (
            pa.types.is_integer(kind)
            if wanted == "integers"
            else pa.types.is_string(kind) or pa.types.is_large_string(kind)
        )
        if wanted and not fits:
            raise DataError(f"{path}: the column {name} holds {kind}, it must hold {wanted}. {_COPY}")
        if wanted and table[name].null_count:
            raise DataError(f"{path}: the column {name} has {table[name].null_count:,} nulls. {_COPY}")


def _check_range(path: Path, table: pa.Table, name: str, low: int, high: int, meaning: str) -> None:
    if name not in table.column_names or not len(table):
        return
    values = table[name].to_numpy()
    wrong = int(((values < low) | (values > high)).sum())
    if wrong:
        raise DataError(
            f"{path}: {wrong:,} of {len(values):,} pictures have a {name} outside {low}..{high} ({meaning}); "
            f"found {int(values.min())}..{int(values.max())}. {_COPY}"
        )
