"""Picture and caption tables of a published file, read once and kept as memory-mapped Arrow files.

The published metadata of a large set takes minutes and gigabytes to read. What was read is kept in a folder beside it::

    pictures.arrow, captions.arrow    as `lgrep.data.table` describes them
    index.json                        what was left out, counts and content hash; written last

and is used again as long as the files it was read from have the same sizes and times.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lgrep.data.arrow_files import INDEX_FOLDER, user_cache
from lgrep.data.columns import text_buffers, write_joined
from lgrep.data.filters import keyed_hash
from lgrep.data.notices import examples, notice, reason_of, shown
from lgrep.data.stores import ImageStore
from lgrep.data.table import Table, open_tables
from lgrep.errors import DataError

FORMAT = 1
_ROWS = 2**16  # of a piece
_TEXT = pa.large_string()


class Row(NamedTuple):
    """One picture of a published file.

    Attributes:
        id: unique name.
        captions: all its captions; "" alone when there are none.
        columns: values of the further columns.
    """

    id: str
    captions: Sequence[str]
    columns: tuple[Any, ...]


@dataclass
class LeftOut:
    """Records that are left out: how many for each reason, and the first few."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: object, reason: str) -> None:
        """Count one record."""
        self.counts[reason] += 1
        if len(self.first) < 3:
            self.first.append((shown(str(name)[:120]), reason))


@dataclass(frozen=True)
class Published:
    """A published file and how its rows are read.

    Attributes:
        name: how messages and records call the set.
        inputs: what is read; a change of size or time makes the index anew.
        settings: whatever else decides about the rows.
        columns: further columns of the picture table.
        rows: reads the rows, and notes what is left out.
        store: makes the store from the picture table.
        index: folder for the index; None: beside the first input, or in the user's cache folder if that is read-only.
        max_left_out: largest share of records that may be left out.
        setting: override that names the first input, for messages.
    """

    name: str
    inputs: Sequence[Path]
    settings: Mapping[str, Any]
    columns: pa.Schema
    rows: Callable[[LeftOut], Iterable[Row]]
    store: Callable[[pa.Table], ImageStore]
    index: str | None = None
    max_left_out: float = 0.1
    setting: str = "data.metadata"

    def open(self) -> Table:
        """The table, from the index if there is one.

        Raises:
            DataError: unreadable inputs, too much left out, or no space for the index.
        """
        folder = self._folder()
        found = self._reuse(folder)
        if found is None:
            self._make(folder)
            found = self._read(folder)
        table, about = found
        self._check(about)
        self._tell(about)
        return table

    def _reuse(self, folder: Path) -> tuple[Table, dict[str, Any]] | None:
        """The table of an index that is there; a damaged one is removed."""
        if not folder.exists():
            return None
        try:
            return self._read(folder)
        except (OSError, ValueError, KeyError, TypeError, DataError):
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def _read(self, folder: Path) -> tuple[Table, dict[str, Any]]:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        return open_tables(folder, {"name": self.name, **about}, self.store), about

    def _folder(self) -> Path:
        first = self.inputs[0]
        key = hashlib.sha256(json.dumps([FORMAT, self.settings], sort_keys=True).encode())
        for path in self.inputs:
            try:
                about = path.stat()
            except OSError as error:
                raise DataError(
                    f"{self.setting}={shown(path)} cannot be read ({reason_of(error)}). Type {self.setting}=PATH; "
                    "docs/data_formats.md says how to get or make it"
                ) from error
            key.update(f"{os.path.basename(path)!r} {about.st_size} {about.st_mtime_ns}".encode())
        name = f"{shown(first.stem)[:60]}-{key.hexdigest()[:12]}"
        if self.index is not None:
            return Path(self.index).expanduser() / name
        beside = first.absolute().parent / INDEX_FOLDER
        if (beside / name).is_dir() or os.access(first.absolute().parent, os.W_OK):
            return beside / name
        return user_cache() / name

    def _make(self, folder: Path) -> None:
        """Write the index whole or not at all; of several processes that do so at once, one wins."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as name:
                scratch, whole = Path(name), Path(name) / "index"
                whole.mkdir()
                about = self._write(scratch, whole)
                (whole / "index.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
                if not (folder / "index.json").is_file():
                    os.rename(whole, folder)
        except OSError as error:
            if (folder / "index.json").is_file():
                return
            raise DataError(
                f"the index of {self.setting}={shown(self.inputs[0])} cannot be written to {folder.parent} "
                f"({reason_of(error)}). Type data.index=DIR with a folder on a disk with space"
            ) from error

    def _write(self, scratch: Path, whole: Path) -> dict[str, Any]:
        left_out, pieces = LeftOut(), scratch / "pieces.arrow"
        schema = pa.schema([("id", _TEXT), ("text", _TEXT), ("texts", pa.large_list(_TEXT)), *self.columns])
        single = True
        with _uncollected(), pa.OSFile(str(pieces), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in _batches(self.rows(left_out), schema):
                writer.write_batch(batch)
                single = single and bool(pc.all(pc.equal(pc.list_value_length(batch["texts"]), 1)).as_py())
        stored = pa.ipc.open_stream(pa.memory_map(str(pieces))).read_all()
        about = {
            "format": FORMAT,
            "pictures": len(stored),
            "captions": len(stored),
            "content_hash": _content_hash(stored),
            "left_out": sum(left_out.counts.values()),
            "examples": left_out.first,
            "reasons": dict(left_out.counts.most_common()),
            "repeated": len(stored) - len(np.unique(keyed_hash(stored["id"], 0))),
        }
        self._check(about)
        _write_tables(stored, list(self.columns.names), single, whole, scratch)
        return about

    def _check(self, about: dict[str, Any]) -> None:
        total, lost = about["pictures"] + about["left_out"], about["left_out"]
        named = examples([(name, reason) for name, reason in about["examples"]])
        place = f"{self.setting}={shown(self.inputs[0])}"
        if not total:
            raise DataError(f"{place} holds no picture")
        if lost > self.max_left_out * total or not about["pictures"]:
            raise DataError(
                f"{lost:,} of {total:,} records of {place} cannot be used, more than data.max_left_out="
                f"{self.max_left_out}: {named}. Mend them, or type data.max_left_out=1 to leave them out"
            )

    def _tell(self, about: dict[str, Any]) -> None:
        place, lost = f"{self.setting}={shown(self.inputs[0])}", about["left_out"]
        if lost:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in list(about["reasons"].items())[:4])
            notice(
                f"{lost:,} of {about['pictures'] + lost:,} records of {place} are left out: {reasons}; the first is "
                f"{about['examples'][0][0]}"
            )
        if about["repeated"]:
            notice(
                f"{about['repeated']:,} of {about['pictures']:,} records of {place} repeat the picture of another; such "
                "pictures are their own negatives"
            )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cyclic garbage, which records have none of and which takes almost half of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _batches(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == _ROWS:
            yield _batch(held, schema)
            held = []
    if held:
        yield _batch(held, schema)


def _batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    further = list(zip(*(row.columns for row in rows), strict=True)) if len(schema) > 3 else []
    values = [[row.id for row in rows], [row.captions[0] for row in rows], [row.captions for row in rows], *further]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind) for column, kind in zip(values, schema.types, strict=True)], schema=schema
    )


def _content_hash(stored: pa.Table) -> str:
    """Of ids and captions, whatever batches they came in."""
    whole = hashlib.sha256()
    for name in ("id", "texts"):
        digests = [hashlib.sha256(), hashlib.sha256(), hashlib.sha256()]
        for piece in stored[name].chunks:
            texts = piece
            if name == "texts":
                digests[2].update(pc.list_value_length(piece).to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
                texts = piece.flatten()
            _, offsets, data = text_buffers(texts)
            digests[0].update(np.diff(offsets).tobytes())
            digests[1].update(data)
        for digest in digests:
            whole.update(digest.digest())
    return whole.hexdigest()[:16]


def _write_tables(stored: pa.Table, columns: list[str], single: bool, whole: Path, scratch: Path) -> None:
    ends = np.cumsum([0] + [len(piece) for piece in stored["id"].chunks])

    def pieces(name: str) -> Iterable[pa.Array]:
        if name == "group" or name == "first":
            kind = pa.int32() if name == "group" else pa.int64()
            return (pa.array(np.arange(a, b), kind) for a, b in pairwise(ends))
        pieces: Iterable[pa.Array] = stored[name].chunks
        return pieces

    fields = [pa.field("id", pa.string()), pa.field("group", pa.int32())]
    fields += [stored.schema.field(name) for name in columns]
    write_joined(whole / "pictures.arrow", pa.schema(fields), pieces, scratch)
    fields = [pa.field("id", pa.string()), pa.field("text", pa.string()), pa.field("first", pa.int64())]
    fields += [] if single else [pa.field("texts", pa.large_list(_TEXT))]
    write_joined(whole / "captions.arrow", pa.schema(fields), pieces, scratch)
