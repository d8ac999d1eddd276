"""What a picture set must fulfil before training relies on it; everything here is read from tables, not from pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lgrep.errors import DataError

_INTEGERS = ("group", "shard", "offset", "size", "label", "family", "first")
_PICTURES = ("id", "group", "shard", "offset", "size")
_CAPTIONS = ("id", "text")


def read_description(folder: Path, version: int) -> dict[str, Any]:
    """The content of `set.json` with its types as promised.

    Raises:
        DataError: none there, no mapping, something missing or of the wrong type, or another format.
    """
    path = folder / "set.json"
    if not path.is_file():
        raise DataError(f"no picture set in {folder}: it has no set.json (lgrep.data.shards.write_set makes sets)")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
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
    return dict(about)


def check_tables(folder: Path, about: dict[str, Any], pictures: pa.Table, captions: pa.Table) -> None:
    """Refuse tables that do not fit each other or the description.

    Raises:
        DataError: a missing column, a wrong type, nulls, groups, labels or shards out of range, other row counts.
    """
    _check_columns(folder / "pictures.arrow", pictures, _PICTURES if "shards" in about else _PICTURES[:2])
    _check_columns(folder / "captions.arrow", captions, _CAPTIONS)
    for key, table in (("pictures", pictures), ("captions", captions)):
        if about.get(key, len(table)) != len(table):
            raise DataError(f"{folder / key}.arrow has {len(table):,} rows, set.json says {about[key]}. {_COPY}")
    place = folder / "pictures.arrow"
    _check_range(place, pictures, "group", 0, len(captions) - 1, "rows of captions.arrow")
    _check_range(place, pictures, "shard", 0, len(about.get("shards", ())) - 1, "files of set.json")
    _check_range(place, pictures, "label", -1, 2**31 - 1, "-1 means no label")


def check_places(folder: Path, shards: list[Path], pictures: pa.Table) -> None:
    """Refuse shard files that end before the last of their pictures.

    Raises:
        DataError: names the file, its size, and how many pictures are lost.
    """
    lengths = np.array([path.stat().st_size for path in shards], dtype=np.int64)
    negative, lost, needed = 0, 0, np.zeros(len(shards), dtype=np.int64)
    for start in range(0, len(pictures), _BLOCK):
        block = pictures.slice(start, _BLOCK)
        shard, offset, size = (block[name].to_numpy().astype(np.int64) for name in ("shard", "offset", "size"))
        negative += int(((offset < 0) | (size < 0)).sum())
        beyond = offset + size > lengths[shard]
        if beyond.any():
            lost += int(beyond.sum())
            np.maximum.at(needed, shard[beyond], (offset + size)[beyond])
    if negative:
        raise DataError(f"{folder / 'pictures.arrow'}: {negative:,} pictures have a negative offset or size. {_COPY}")
    if lost:
        number = int(np.flatnonzero(needed)[0])
        raise DataError(
            f"{shards[number]} is cut short: it has {lengths[number]:,} bytes and its pictures need "
            f"{needed[number]:,}; {lost:,} of {len(pictures):,} pictures of the set are lost. {_COPY}"
        )


def check_first(name: str, first: np.ndarray[Any, Any], group: np.ndarray[Any, Any]) -> None:
    """Refuse a column `first` that contradicts `group`.

    Raises:
        DataError: rows not ordered by `group`, or another first row.
    """
    for start in range(0, len(group), _BLOCK):
        block = group[max(0, start - 1) : start + _BLOCK]
        if (block[1:] < block[:-1]).any():
            raise DataError(f"{name}: the rows of pictures.arrow must be ordered by 'group'")
    fits = not len(first) or first[0] == 0
    for start in range(0, len(first), _BLOCK):
        begin = first[start : start + _BLOCK]
        end = np.append(begin[1:], first[start + _BLOCK] if start + _BLOCK < len(first) else len(group))
        fits = fits and bool((end >= begin).all()) and int(end[-1]) <= len(group)
        if not fits:
            break
        filled = np.flatnonzero(end > begin)
        fits = bool((group[begin[filled]] == filled + start).all() and (group[end[filled] - 1] == filled + start).all())
    if not fits:
        raise DataError(f"{name}: the column first of captions.arrow contradicts the column group. {_COPY}")


_BLOCK = 2**16  # rows looked at together: as many as the caches of a core hold
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
    least, most = pc.min_max(table[name]).as_py().values()
    if least < low or most > high:
        outside = pc.or_(pc.less(table[name], low), pc.greater(table[name], high))
        raise DataError(
            f"{path}: {pc.sum(outside).as_py():,} of {len(table):,} pictures have a {name} outside {low}..{high} "
            f"({meaning}); found {least}..{most}. {_COPY}"
        )
