"""Arrow tables in files: written whole, memory-mapped, checked at little cost, shared by processes."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.errors import DataError

INDEX_FOLDER = ".lgrep-index"  # beside the data, for what was read of them once
_SMALL = 2**20  # bytes; smaller values travel as they are
_MOST_TEXT = 2**31 - 1  # bytes that a column of 32-bit offsets can hold


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as one batch, so that every column is one piece of the memory map.

    Texts too long together for 32-bit offsets become `large_string`.
    """
    fields = [_wide(field, table[field.name].nbytes) for field in table.schema]
    table = table.cast(pa.schema(fields, table.schema.metadata)).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def map_arrow(path: Path, check: bool = True) -> pa.Table:
    """A memory-mapped table.

    Args:
        path: an Arrow file.
        check: refuse what could crash the process that reads it; texts that are no UTF-8 are found when read.

    Raises:
        DataError: missing, cut short or damaged.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
        table.validate()
        if check:
            for column in table.columns:
                for chunk in column.chunks:
                    chunk.view(_as_bytes(chunk.type)).validate(full=True)
            table.schema.names  # noqa: B018 (decodes them)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}. Copy the set again") from error
    return table


def as_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, Any]:
    """A column as an array: a view where the type and one chunk allow it; fixed-size lists as [N, D]."""
    array = column
    if isinstance(column, pa.ChunkedArray):
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        flat: np.ndarray[Any, Any] = array.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(array), array.type.list_size)
    values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
    return values


def user_cache() -> Path:
    """The folder for features, and for indices of data that lie where nothing can be written; LGREP_CACHE moves it."""
    own = os.environ.get("LGREP_CACHE")
    return Path(own or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lgrep")).expanduser()


class Shared:
    """Values that travel to other processes as the name of a file that both map.

    Large values without a file are written to a temporary one when they first travel; it lasts as long as this object.

    Args:
        value: an Arrow table, an Arrow array or a NumPy array of one dimension.
        file: Arrow file that holds the value.
        column: name of the column, unless the value is the whole table.
    """

    def __init__(self, value: Any, file: Path | None = None, column: str | None = None) -> None:
        self.value, self.file, self.column = value, file, column

    def __reduce__(self) -> Any:
        if self.file is None or not self.file.exists():
            if self.value.nbytes < _SMALL:
                return Shared, (self.value,)
            self._write()
        return _attach, (self.file, self.column, isinstance(self.value, np.ndarray))

    def _write(self) -> None:
        whole = isinstance(self.value, pa.Table)
        self.column = None if whole else "values"
        handle, name = tempfile.mkstemp(".arrow", "lgrep-shared-")
        os.close(handle)
        weakref.finalize(self, _remove, name, os.getpid())
        try:
            write_arrow(Path(name), self.value if whole else pa.table({"values": self.value}))
        except OSError as error:
            raise DataError(
                f"cannot write the table that loading processes share to {name} ({error.strerror or error}). Set the "
                "environment variable TMPDIR to a folder with more space, or type loader.workers=0"
            ) from error
        self.file = Path(name)


def _attach(file: Path, column: str | None, numpy: bool) -> Shared:
    table = map_arrow(file, check=False)
    value = table if column is None else as_numpy(table[column]) if numpy else table[column]
    return Shared(value, file, column)


def _remove(name: str, process: int) -> None:
    if os.getpid() == process:  # not from a forked worker that ends
        Path(name).unlink(missing_ok=True)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type without the promise that texts are UTF-8: checking that would read every byte."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_as_bytes(kind.value_type)))
    return kind


def _wide(field: pa.Field, size: int) -> pa.Field:
    if size > _MOST_TEXT and pa.types.is_string(field.type):
        return field.with_type(pa.large_string())
    if size > _MOST_TEXT and pa.types.is_list(field.type):
        return field.with_type(pa.large_list(_wide(field.type.value_field, size)))
    return field
