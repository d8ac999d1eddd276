"""From lists of pictures to the table of an evaluation set; every fault is named and counted on the way."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.data.notices import examples, reason_of, shown
from lgrep.data.stores import FolderStore, ImageStore
from lgrep.data.table import Table
from lgrep.errors import DataError
from lgrep.evaluation.datasets.arrays import PixelStore
from lgrep.evaluation.datasets.listed import PARTS, Keys, Listed, class_order
from lgrep.evaluation.datasets.splitting import SplitRule, drawn_parts

_SAMPLED = 256  # pictures whose first bytes are part of a set's identity
_FIRST = 4096


@dataclass
class Labelled:
    """Pictures of all parts in one table.

    Attributes:
        table: columns `id`, `group`, `label` (-1 where several), `part` and, with several classes, `labels`.
        keys: the classes as written, in the order of their numbers.
        names: class -> name, as far as the files say.
        remarks: faults that were survived, one line each.
        has_captions: whether there are texts.
    """

    table: Table
    keys: list[str]
    names: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    has_captions: bool = False


def labelled(
    name: str,
    base: Path,
    lists: Mapping[str, Sequence[Listed]],
    rule: SplitRule | None = None,
    classes: Sequence[str] | None = None,
    max_left_out: float = 0.1,
    splits: Mapping[str, str] | None = None,
) -> Labelled:
    """One table of all lists.

    Args:
        name: of the set.
        base: folder that the pictures' paths begin at.
        lists: part (`train`, `validation`, `test`, or `all`: as the lists or the rule say) -> what it consists of.
        rule: draws the parts of pictures without one.
        classes: the classes, in order; None: those that occur, sorted.
        max_left_out: largest share of listed pictures that may be absent.
        splits: file -> part, which replaces all parts; pictures that it does not have are dropped.

    Raises:
        DataError: contradictions, no test pictures, or too many absent ones.
    """
    rows = _joined(lists, rule, splits)
    remarks = [remark for some in lists.values() for one in some for remark in one.remarks]
    rows, more = _without_doubles(name, rows)
    store_files = all(one.pixels is None for some in lists.values() for one in some)
    sizes = np.zeros(len(rows.files), np.int64)
    if store_files:
        sizes, gone = _sizes(base, rows)
        remarks += more + _absent(name, rows, gone, max_left_out)
        kept = sizes >= 0
        rows, sizes = rows.take(np.flatnonzero(kept)), sizes[kept]
    if "test" not in rows.parts:
        raise DataError(f"{name}: no picture of the test part is there, in {shown(base)}")
    keys = list(classes) if classes is not None else sorted(_all_keys(rows.keys), key=class_order)
    remarks += _only_in_test(rows)
    store: ImageStore
    if store_files:
        store = FolderStore(base, rows.files)
    else:
        store = PixelStore([one.pixels for some in lists.values() for one in some], rows.places)
    names = {key: value for some in lists.values() for one in some for key, value in one.names.items()}
    table = _table(name, rows, _numbers(name, rows.keys, keys), sizes, store)
    return Labelled(table, keys, names, remarks, any(rows.captions))


@dataclass
class _Rows:
    """Columns of all pictures; `places` are their numbers before any was dropped."""

    files: list[str]
    keys: list[Keys]
    parts: list[str]
    captions: list[list[str]]
    known: dict[str, int]
    places: np.ndarray[Any, Any]

    def take(self, rows: np.ndarray[Any, Any]) -> _Rows:
        if len(rows) == len(self.files):
            return self
        picked = [[column[row] for row in rows] for column in (self.files, self.keys, self.parts)]
        captions = [self.captions[row] for row in rows] if self.captions else []
        return _Rows(picked[0], picked[1], picked[2], captions, self.known, self.places[rows])


def _joined(lists: Mapping[str, Sequence[Listed]], rule: SplitRule | None, splits: Mapping[str, str] | None) -> _Rows:
    files: list[str] = []
    keys: list[Keys] = []
    parts: list[str] = []
    captions: list[list[str]] = []
    known: dict[str, int] = {}
    for part, some in lists.items():
        for number, one in enumerate(some):
            mark = f"{part}/{number}/" * (len(some) > 1) or f"{part}/"
            files += one.files if one.pixels is None else [mark + file for file in one.files]
            keys += one.keys
            parts += one.parts or ["" if part == "all" else part] * len(one.files)
            captions += one.captions or [[]] * len(one.files)
            known |= one.sizes
    rows = _Rows(files, keys, parts, captions if any(captions) else [], known, np.arange(len(files)))
    if splits is not None:
        there = set(files)
        lost = [file for file in splits if file not in there]
        if lost:
            raise DataError(
                f"the list of splits names {len(lost):,} pictures that the set lacks, first {shown(lost[0])}"
            )
        rows.parts = [splits.get(file, "") for file in files]
        return rows.take(np.flatnonzero([part != "" for part in rows.parts]))
    free = [row for row, part in enumerate(parts) if not part]
    if free:
        drawn = drawn_parts(
            [files[row] for row in free], [keys[row] for row in free], rule or SplitRule(shares={"test": 0.2})
        )
        for row, part in zip(free, drawn, strict=True):
            rows.parts[row] = part
    order = np.argsort([PARTS.index(part) for part in rows.parts], kind="stable")
    return rows if (order[1:] > order[:-1]).all() else _ordered(rows, order)


def _ordered(rows: _Rows, order: np.ndarray[Any, Any]) -> _Rows:
    pick = [[column[row] for row in order] for column in (rows.files, rows.keys, rows.parts)]
    captions = [rows.captions[row] for row in order] if rows.captions else []
    return _Rows(pick[0], pick[1], pick[2], captions, rows.known, rows.places[order])


def _without_doubles(name: str, rows: _Rows) -> tuple[_Rows, list[str]]:
    """A picture listed twice is kept once; with two labels or in two parts it is refused."""
    first: dict[str, int] = {}
    doubles = []
    for row, file in enumerate(rows.files):
        before = first.setdefault(file, row)
        if before == row:
            continue
        for what, column in (("label", rows.keys), ("part", rows.parts)):
            if column[before] != column[row]:
                raise DataError(
                    f"{name}: {shown(file)} is listed with the {what} {column[before]} and with {column[row]}. Keep one of them"
                )
        doubles.append(row)
        if rows.captions:
            rows.captions[before] = list(dict.fromkeys([*rows.captions[before], *rows.captions[row]]))
    if not doubles:
        return rows, []
    kept = np.setdiff1d(np.arange(len(rows.files)), doubles)
    several = bool(rows.captions)  # a row per caption is a way to write several
    return rows.take(kept), [] if several else [f"{len(doubles):,} pictures are listed twice and counted once"]


def _sizes(base: Path, rows: _Rows) -> tuple[np.ndarray[Any, Any], list[tuple[str, str]]]:
    """Bytes of every picture, -1 for those that are not there, and these with the reason."""
    sizes = np.full(len(rows.files), -1, np.int64)
    gone = []
    for row, file in enumerate(rows.files):
        try:
            sizes[row] = rows.known[file] if file in rows.known else os.stat(base / file).st_size
        except (OSError, ValueError) as error:
            gone.append((file, reason_of(error)))
    return sizes, gone


def _absent(name: str, rows: _Rows, gone: list[tuple[str, str]], most: float) -> list[str]:
    if not gone:
        return []
    text = f"{len(gone):,} of {len(rows.files):,} listed pictures are not there: {examples(gone)}"
    if len(gone) > most * len(rows.files):
        raise DataError(
            f"{name}: {text}. Copy the archive again, or type options.{name}.max_left_out=1 to go on without them"
        )
    return [text]


def _all_keys(keys: Sequence[Keys]) -> set[str]:
    return {one for key in keys for one in ([key] if isinstance(key, str) else key) if one}


def _only_in_test(rows: _Rows) -> list[str]:
    if "train" not in rows.parts:
        return []
    seen = _all_keys([key for key, part in zip(rows.keys, rows.parts, strict=True) if part != "test"])
    count = Counter(
        one
        for key, part in zip(rows.keys, rows.parts, strict=True)
        if part == "test"
        for one in _all_keys([key]) - seen
    )
    if not count:
        return []
    listed = ", ".join(shown(key) for key in sorted(count)[:3])
    return [f"{len(count):,} classes ({listed}) have {count.total():,} test pictures and none to learn from"]


def _numbers(name: str, keys: Sequence[Keys], classes: Sequence[str]) -> list[list[int]]:
    """Numbers of the classes of every picture."""
    number = {key: place for place, key in enumerate(classes)}
    odd = sorted(_all_keys(keys) - number.keys())
    if odd:
        raise DataError(f"{name}: the label '{shown(odd[0])}' is none of the {len(classes):,} classes")
    number[""] = -1
    return [[number[key]] if isinstance(key, str) else [number[one] for one in key if one] for key in keys]


def _table(name: str, rows: _Rows, numbers: list[list[int]], sizes: Any, store: ImageStore) -> Table:
    ids = [
        file if file.isascii() and file.isprintable() else shown(file) for file in rows.files
    ]  # most are, at a glance
    several = any(isinstance(key, tuple) for key in rows.keys)
    columns = {
        "id": pa.array(ids, pa.string()),
        "group": pa.array(np.arange(len(ids)), pa.int32()),
        "label": pa.array([-1 if several else some[0] for some in numbers], pa.int32()),
        "part": pa.array(rows.parts).dictionary_encode(),
    }
    if several:
        columns["labels"] = pa.array(numbers, pa.list_(pa.int32()))
    texts = [some[0] if some else "" for some in rows.captions] if rows.captions else [""] * len(ids)
    captions = {"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}
    if rows.captions:
        captions["texts"] = pa.array(rows.captions, pa.list_(pa.string()))
    digest = hashlib.sha256()
    for text, size, part, some in zip(ids, sizes.tolist(), rows.parts, numbers, strict=True):
        digest.update(f"{text}\0{size}\0{part}\0{some}\n".encode())
    digest.update("\0".join(" ".join(some) for some in rows.captions).encode())
    for row in np.unique(np.linspace(0, len(ids) - 1, _SAMPLED).astype(int)).tolist():
        digest.update(_first_bytes(store, row))
    if isinstance(store, PixelStore):
        for array in store.pixels:
            digest.update(np.ascontiguousarray(array).data if isinstance(array, np.ndarray) else b"")
    return Table(pa.table(columns), pa.table(captions), store, name, digest.hexdigest()[:16])


def _first_bytes(store: ImageStore, row: int) -> bytes:
    try:
        if isinstance(store, FolderStore):
            with open(store.locate(row), "rb") as handle:
                return handle.read(_FIRST)
        return store.read(row)
    except (OSError, ValueError):
        return b"unreadable"  # who reads the picture says so
