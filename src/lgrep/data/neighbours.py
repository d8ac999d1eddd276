"""Neighbour tables: for every caption or picture of a set, the k most similar others.

A table is a folder::

    about.json          what was searched, with what, for which set; written last
    neighbours.arrow    one memory-mapped Arrow record batch, row = caption (or picture) of the set:
                        `neighbours` list<int32>[k], best first, -1 where there are fewer
                        `similarities` list<float32>[k], -inf there
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from lgrep.data.arrow_files import as_numpy, map_arrow
from lgrep.data.neighbour_checks import AGAIN, check_block, check_range, check_unique
from lgrep.data.notices import reason_of, shown
from lgrep.errors import DataError

FORMAT = 1
BLOCK = 2**17  # rows that a pass over a table looks at together
Unit = Literal["caption", "picture"]


class NeighboursAbout(BaseModel):
    """What a neighbour table is, kept in `about.json`.

    Attributes:
        unit: what a row stands for: a caption or a picture of the set.
        table: name of the set.
        content_hash: of the set; a table fits no other one.
        metric: of the similarities; greater is nearer.
        encoder: name and settings of the encoder.
        search: settings of the search.
        recall: share of the true neighbours that an approximate search found, as measured; None: not measured.
        provenance: anything else (command, versions, hardware).
        rows, k, digest, format: filled in by the writer.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    unit: Unit
    table: str
    content_hash: str
    metric: str = "cosine"
    encoder: dict[str, Any] = {}
    search: dict[str, Any] = {}
    recall: float | None = None
    provenance: dict[str, Any] = {}
    rows: NonNegativeInt = 0
    k: PositiveInt = 1
    digest: str = ""
    format: int = FORMAT


class NeighbourTable:
    """An open neighbour table; its arrays are views of the memory map and it is pickled as its path.

    Args:
        path: the folder.
        about: its description.
        indices: int32 [rows, k], best first, -1 = none.
        similarities: float32 [rows, k].
    """

    def __init__(
        self, path: Path, about: NeighboursAbout, indices: NDArray[np.int32], similarities: NDArray[np.float32]
    ) -> None:
        self.path = path
        self.about = about
        self.indices = indices
        self.similarities = similarities

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def k(self) -> int:
        """Neighbours stored per row."""
        return int(self.indices.shape[1])

    def check(self) -> None:
        """Read all values once and refuse what no search could have written.

        Raises:
            DataError: names the first row that is wrong.
        """
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            check_block(shown(self.path), self.indices[rows], self.similarities[rows], start, len(self))

    def __reduce__(self) -> Any:
        return open_neighbours, (self.path,)


class NeighbourWriter:
    """Writes a neighbour table block by block; needs the disk twice and the memory of one block.

    The folder becomes valid with `about.json`, which is written when the block of the `with` statement ends
    without an error; otherwise nothing of the table is left.

    Args:
        folder: where to write; made if missing.
        rows: captions or pictures of the set.
        k: neighbours per row.
        about: what is written; `rows`, `k` and `digest` are filled in.

    Raises:
        DataError: there is a table already, the values are impossible, rows are missing, or the disk is full.

    >>> import tempfile
    >>> about = NeighboursAbout(unit="caption", table="two", content_hash="0")
    >>> with tempfile.TemporaryDirectory() as folder, NeighbourWriter(folder, 2, 1, about) as writer:
    ...     writer.append(np.array([[1], [0]]), np.array([[0.5], [0.5]]))
    """

    def __init__(self, folder: str | Path, rows: int, k: int, about: NeighboursAbout) -> None:
        self.folder = Path(folder)
        if (self.folder / "about.json").exists():
            raise DataError(f"{shown(folder)} holds a neighbour table already. Type another out=..., or remove it")
        if not 0 <= rows < 2**31 or k < 1:
            raise DataError(f"a neighbour table has fewer than 2**31 rows and k >= 1; got rows={rows}, k={k}")
        self.rows, self.k = rows, k
        self.about = about
        self.written = 0
        self._digests = [hashlib.sha256(), hashlib.sha256()]
        self._staged = [self.folder / "neighbours.staged", self.folder / "similarities.staged"]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = [path.open("wb") for path in self._staged]

    def append(self, indices: NDArray[Any], similarities: NDArray[Any]) -> None:
        """The next rows: indices [n, k] (-1 = none, at the end) and similarities [n, k], best first."""
        place = f"rows {self.written:,} and following of {shown(self.folder)}"
        shape = (len(indices), self.k)
        if indices.shape != shape or similarities.shape != shape or self.written + len(indices) > self.rows:
            raise DataError(
                f"{place}: got indices {list(indices.shape)} and similarities {list(similarities.shape)}; "
                f"expected [n, {self.k}] each, and at most {self.rows:,} rows in all"
            )
        check_range(place, np.asarray(indices), self.written, self.rows)  # before int32 could wrap around
        found = np.ascontiguousarray(indices, dtype=np.int32)
        scores = np.where(found >= 0, similarities, -np.inf).astype(np.float32)
        check_block(place, found, scores, self.written, self.rows)
        check_unique(place, found, self.written)
        for file, digest, block in zip(self._files, self._digests, (found, scores), strict=True):
            self._guard(file.write, block.tobytes())
            digest.update(block.tobytes())
        self.written += len(found)

    def __enter__(self) -> NeighbourWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for file in self._files:
                self._guard(file.close)
            if kind is None:
                self._finish()
        finally:
            for path in [*self._staged, self.folder / "neighbours.partial", self.folder / "about.partial"]:
                path.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self.written != self.rows:
            raise DataError(f"{shown(self.folder)}: {self.written:,} of {self.rows:,} rows were written")
        digest = "".join(part.hexdigest()[:8] for part in self._digests)
        about = self.about.model_copy(update={"rows": self.rows, "k": self.k, "digest": digest, "format": FORMAT})
        columns = [
            _list_column(path, kind, self.rows, self.k)
            for path, kind in zip(self._staged, (pa.int32(), pa.float32()), strict=True)
        ]
        schema = pa.schema(_fields(self.k), metadata={"digest": digest})
        partial = self.folder / "neighbours.partial"
        self._guard(_write_batch, partial, pa.record_batch(columns, schema=schema))
        os.replace(partial, self.folder / "neighbours.arrow")
        description = self.folder / "about.partial"
        text = json.dumps(about.model_dump(), indent=1, ensure_ascii=False) + "\n"
        self._guard(description.write_text, text, "utf-8")
        os.replace(description, self.folder / "about.json")

    def _guard(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except OSError as error:
            needed = 16 * self.rows * self.k / 2**30
            raise DataError(
                f"cannot write {shown(self.folder)} ({reason_of(error)}); it needs {needed:.1f} GiB while it is made"
            ) from error


def write_neighbours(
    folder: str | Path, indices: NDArray[Any], similarities: NDArray[Any], about: NeighboursAbout
) -> Path:
    """Write a whole neighbour table; see `NeighbourWriter`.

    Args:
        folder: where to write.
        indices: [rows, k] integers, best first, -1 = none.
        similarities: [rows, k].
        about: what is written.
    """
    if indices.ndim != 2:
        raise DataError(f"{shown(folder)}: indices are [rows, k]; got {list(indices.shape)}")
    with NeighbourWriter(folder, len(indices), indices.shape[1], about) as writer:
        writer.append(indices, similarities)
    return Path(folder)


def open_neighbours(folder: str | Path) -> NeighbourTable:
    """Open a neighbour table; values are not read (`NeighbourTable.check` does).

    Raises:
        DataError: the folder is missing, incomplete, damaged or of a newer format.
    """
    folder = Path(folder)
    place = shown(folder)
    if not (folder / "about.json").is_file():
        raise DataError(f"no neighbour table in {place}: it has no about.json")
    about = _description(folder / "about.json")
    table = map_arrow(folder / "neighbours.arrow", check=False)
    wanted = pa.schema(_fields(about.k))
    if not table.schema.equals(wanted):
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise DataError(f"{place}/neighbours.arrow has the columns {found}; k={about.k} needs {wanted[0]}, {wanted[1]}")
    digest = (table.schema.metadata or {}).get(b"digest", b"").decode("ascii", "replace")
    if len(table) != about.rows or digest != about.digest or any(column.null_count for column in table.columns):
        raise DataError(f"{place}: neighbours.arrow and about.json are not of the same table. {AGAIN}")
    if any(column.num_chunks > 1 for column in table.columns):
        raise DataError(f"{place}/neighbours.arrow is not one record batch, which processes could share. {AGAIN}")
    indices, similarities = (as_numpy(column).reshape(about.rows, about.k) for column in table.columns)
    return NeighbourTable(folder, about, indices, similarities)


def _fields(k: int) -> list[pa.Field]:
    kinds = {"neighbours": pa.int32(), "similarities": pa.float32()}
    return [pa.field(name, pa.list_(pa.field("item", kind), k)) for name, kind in kinds.items()]


def _description(path: Path) -> NeighboursAbout:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version != FORMAT:
            raise DataError(f"{shown(path)} is of format {version}; this version of lgrep reads format {FORMAT}")
        return NeighboursAbout.model_validate(content)
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        else:
            why = reason_of(error)
        raise DataError(f"{shown(path)} is damaged ({why}). {AGAIN}") from error


def _list_column(path: Path, kind: pa.DataType, rows: int, k: int) -> pa.Array:
    """A column whose values stay in the staged file."""
    buffer = pa.memory_map(str(path), "r").read_buffer() if rows else pa.py_buffer(b"")
    return pa.FixedSizeListArray.from_arrays(pa.Array.from_buffers(kind, rows * k, [None, buffer]), k)


def _write_batch(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
