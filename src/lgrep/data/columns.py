"""Columns of Arrow tables that come in pieces: joined on disk, so that memory stays flat whatever their length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MOST = 2**31 - 1  # bytes or entries that an array with 32-bit offsets can hold

Pieces: TypeAlias = "Callable[[str], Iterable[pa.Array]]"


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with the values' types in place of dictionaries, which differ between tables.

    >>> plain_schema(pa.schema({"year": pa.int16(), "by": pa.dictionary(pa.int8(), pa.string())})).types
    [DataType(int16), DataType(string)]
    """
    return pa.schema(
        [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in schema]
    )


def write_joined(path: Path, schema: pa.Schema, pieces: Pieces, scratch: Path) -> None:
    """Write a table as one batch, so that every column is one piece of the memory map.

    Numbers, texts, lists of texts and vectors are collected in files before; other columns, and those with missing
    values, go through memory.
    Texts too long together for 32-bit offsets become `large_string`.

    Args:
        path: Arrow file.
        schema: of the table.
        pieces: name of a column -> its arrays, in order; called once or twice per column.
        scratch: folder for the columns on their way, as large as the table.
    """
    arrays = [_joined(field, pieces, scratch / f"column-{number}") for number, field in enumerate(schema)]
    fields = [field.with_type(array.type) for field, array in zip(schema, arrays, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _joined(field: pa.Field, pieces: Pieces, base: Path) -> pa.Array:
    kind = field.type
    vectors = pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)
    if any(piece.null_count for piece in pieces(field.name)):
        return pa.concat_arrays([pa.array([], kind), *pieces(field.name)])
    if _is_text(kind):
        return _texts(kind, pieces(field.name), base)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type):
        return _lists(kind, pieces, field.name, base)
    if vectors or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _numbers(kind, pieces(field.name), base, kind.list_size if vectors else 0)
    return pa.concat_arrays([pa.array([], kind), *pieces(field.name)])


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(kind: pa.DataType, pieces: Iterable[pa.Array], base: Path, vector: int) -> pa.Array:
    """Numbers, or vectors of that many."""
    values = base.with_suffix(".values")
    with values.open("wb") as out:
        for piece in pieces:
            out.write(memoryview((piece.flatten() if vector else piece).to_numpy(zero_copy_only=False)).cast("B"))
    inner = kind.value_type if vector else kind
    flat = pa.Array.from_buffers(inner, values.stat().st_size // (inner.bit_width // 8), [None, _buffer(values)])
    return pa.FixedSizeListArray.from_arrays(flat, vector) if vector else flat


def _lists(kind: pa.DataType, pieces: Pieces, name: str, base: Path) -> pa.Array:
    """Lists of texts; a missing text among them becomes empty."""
    ends, end, length = base.with_suffix(".lists"), 0, 0
    with ends.open("wb") as out:
        out.write(np.zeros(1, np.int64).tobytes())
        for piece in pieces(name):
            lengths = pc.list_value_length(piece).to_numpy(zero_copy_only=False).astype(np.int64)
            out.write((np.cumsum(lengths) + end).tobytes())
            end, length = end + int(lengths.sum()), length + len(piece)
    texts = _texts(kind.value_type, (pc.fill_null(piece.flatten(), "") for piece in pieces(name)), base)
    offsets = pa.Array.from_buffers(pa.int64(), length + 1, [None, _buffer(ends)])
    if pa.types.is_list(kind) and end <= _MOST:
        return pa.ListArray.from_arrays(offsets.cast(pa.int32()), texts)
    return pa.LargeListArray.from_arrays(offsets, texts)


def _texts(kind: pa.DataType, pieces: Iterable[pa.Array], base: Path) -> pa.Array:
    values, offsets = base.with_suffix(".values"), base.with_suffix(".offsets")
    end, length = 0, 0
    with values.open("wb") as out, offsets.open("wb") as ends:
        ends.write(np.zeros(1, np.int64).tobytes())
        for piece in pieces:
            begin, places, data = text_buffers(piece)
            out.write(data)
            ends.write((places[1:] - begin + end).tobytes())
            end, length = end + len(data), length + len(piece)
    large = pa.Array.from_buffers(pa.large_string(), length, [None, _buffer(offsets), _buffer(values)])
    if pa.types.is_large_string(kind) or end > _MOST:
        return large
    narrow = base.with_suffix(".narrow")
    with narrow.open("wb") as out:  # 32-bit offsets
        wide = np.memmap(offsets, np.int64, "r")
        for start in range(0, len(wide), 2**20):
            out.write(wide[start : start + 2**20].astype(np.int32).tobytes())
    return pa.Array.from_buffers(pa.string(), length, [None, _buffer(narrow), _buffer(values)])


def text_buffers(texts: pa.Array) -> tuple[int, np.ndarray[Any, Any], memoryview]:
    """Where the bytes of an array of texts begin, their offsets int64 [N + 1], and the bytes of all of them."""
    wide = texts.cast(pa.large_binary())
    offsets = np.frombuffer(wide.buffers()[1], np.int64)[wide.offset : wide.offset + len(wide) + 1]
    if not len(offsets):
        return 0, np.zeros(1, np.int64), memoryview(b"")
    data = memoryview(wide.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])]
    return int(offsets[0]), offsets, data


def _buffer(file: Path) -> pa.Buffer:
    if not file.stat().st_size:
        return pa.py_buffer(b"")
    return pa.memory_map(str(file), "r").read_buffer()
