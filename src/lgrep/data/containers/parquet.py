"""Pictures in columns of Parquet and Arrow files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lgrep.data.containers.columns import Choice, Columns, choose_columns, describe_rows
from lgrep.data.containers.ranges import check_size
from lgrep.data.containers.samples import Scan
from lgrep.data.stores import Numbers, PerRow
from lgrep.errors import DataError

_BATCH = 2**14  # rows described together
_PLACE = [("shard", pa.int32()), ("offset", pa.int64()), ("size", pa.int64())]


def file_schema(path: Path) -> pa.Schema:
    """Columns of a Parquet or Arrow file.

    Raises:
        DataError: it is neither.
    """
    try:
        if path.suffix == ".parquet":
            return pq.read_schema(path)
        with pa.memory_map(str(path), "r") as source:
            return _reader(source).schema
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0][:120]})") from error


def scan_parquet(path: Path, choice: Choice) -> Scan:
    """Captions and labels of a Parquet file; `shard` is the row group and `offset` the row within.

    Args:
        path: the file.
        choice: of columns.

    Raises:
        DataError: its columns are not those asked for.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = choose_columns(file.schema_arrow, str(path), choice)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            described = [
                describe_rows(pa.Table.from_batches([batch]), columns)
                for batch in file.iter_batches(_BATCH, columns=columns.described, use_threads=False)
            ]
    except (OSError, ValueError, pa.ArrowException) as error:
        return Scan(_rows([], {}, 0), damage=f"cannot be read ({str(error).splitlines()[0][:120]})", lost=None)
    count = sum(sizes)
    place = {
        "shard": np.repeat(np.arange(len(sizes)), sizes),
        "offset": np.concatenate([np.arange(size) for size in sizes] or [np.zeros(0, int)]),
        "size": np.zeros(count, int),
    }
    if not columns.described:  # no column, no batch
        described = [{"text": [None] * count, "label": [None] * count}]
    return Scan(_rows(described, place, count), members=count, parts=len(sizes))


def scan_arrow(path: Path, choice: Choice) -> Scan:
    """Captions, labels and byte ranges of the pictures of an uncompressed Arrow file (of a stream, or of the IPC format).

    Raises:
        DataError: its columns are not those asked for, or it is compressed.
    """
    scan = Scan(_rows([], {}, 0))
    parts: list[pa.Table] = []
    try:
        with pa.memory_map(str(path), "r") as source:
            whole = source.read_buffer()
            reader = _reader(pa.BufferReader(whole))
            columns = choose_columns(reader.schema, str(path), choice)
            for batch in _arrow_batches(reader):
                values = batch.column(columns.picture)
                parts.append(_located(path, batch, values.field("bytes") if columns.nested else values, columns, whole))
    except (OSError, ValueError, pa.ArrowException) as error:
        scan.damage, scan.lost = f"is cut short or damaged ({str(error).splitlines()[0][:120]})", None
    scan.rows = pa.concat_tables([scan.rows, *parts], promote_options="default")
    missing = np.flatnonzero(scan.rows["size"].to_numpy() == 0)
    scan.left_out = [(str(row), "no bytes, or only the path of a file") for row in missing]
    scan.rows = scan.rows.filter(pa.array(scan.rows["size"].to_numpy() > 0))
    return scan


def _located(path: Path, batch: pa.RecordBatch, values: pa.Array, columns: Columns, whole: pa.Buffer) -> pa.Table:
    """The rows of a batch with the place of their pictures in the file."""
    values.validate(full=True)
    wide = pa.types.is_large_binary(values.type)
    _, offsets, data = values.buffers()
    start = 0
    if data is not None:
        start = data.address - whole.address
        if not 0 <= start <= whole.size - data.size:
            raise DataError(
                f"{path} is compressed, which has no random access. Write it again without: "
                "datasets.load_from_disk(OLD).save_to_disk(NEW)"
            )
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)[values.offset : values.offset + len(values) + 1]
    sizes = np.where(values.is_valid().to_numpy(zero_copy_only=False), np.diff(ends), 0)
    place = {"shard": np.zeros(len(values), int), "offset": start + ends[:-1].astype(np.int64), "size": sizes}
    return _rows([describe_rows(pa.Table.from_batches([batch]), columns)], place, len(values))


def _rows(described: Sequence[dict[str, Any]], place: dict[str, np.ndarray[Any, Any]], count: int) -> pa.Table:
    """A table as `Scan.rows` wants it."""
    several = any("texts" in part for part in described)
    kinds = {"text": pa.string(), "label": pa.string(), **({"texts": pa.list_(pa.string())} if several else {})}
    found = {name: pa.array([v for part in described for v in part[name]], kind) for name, kind in kinds.items()}
    columns = {
        "name": pa.array([], pa.string()) if not count else pa.array(map(str, range(count)), pa.string()),
        **found,
        "why": pa.array(["no caption"] * count, pa.string()),
        **{name: pa.array(place.get(name, []), kind) for name, kind in _PLACE},
    }
    return pa.table({name: columns[name] for name in ("name", "text", "why", "label", *columns)})


def _reader(source: Any) -> Any:
    start = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if start == b"ARROW1" else pa.ipc.open_stream(source)


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchReader):
        yield from reader
        return
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


class ParquetStore(PerRow):
    """Pictures in a column of Parquet files. A read decodes the picture's row group, which is then kept for a while.

    Args:
        files: Parquet files.
        parts: row groups of every file.
        column: path of the bytes within the schema, such as `image.bytes`.
        shard: number of the row group of every row, counted through all files.
        offset: row within the row group.
        budget: bytes of decoded row groups kept per process; the last one is always kept.
    """

    per_row, plain = ("shard", "offset"), ("files", "parts", "column", "budget")

    def __init__(
        self,
        files: Sequence[Path],
        parts: Sequence[int],
        column: str,
        shard: Numbers,
        offset: Numbers,
        budget: int = 2**28,
    ) -> None:
        self.files, self.parts, self.column, self.budget = list(files), list(parts), column, budget
        self.shard, self.offset = shard, offset
        self._first = np.concatenate([[0], np.cumsum(self.parts)])
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def read(self, row: int) -> bytes:
        value = self._group(int(self.shard[row]))[int(self.offset[row])]
        if not value.is_valid:
            raise ValueError("no bytes, or only the path of a file")
        check_size(len(value.as_buffer()))
        return bytes(value.as_buffer())

    def locate(self, row: int) -> str:
        file, group = self._split(int(self.shard[row]))
        return f"{self.files[file]} row group {group} row {int(self.offset[row])}"

    def subset(self, rows: Numbers) -> ParquetStore:
        return ParquetStore(self.files, self.parts, self.column, self.shard[rows], self.offset[rows], self.budget)

    def _split(self, shard: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._first, shard, side="right")) - 1
        return file, shard - int(self._first[file])

    def _group(self, shard: int) -> pa.ChunkedArray:
        if shard in self._kept:
            self._kept.move_to_end(shard)
            return self._kept[shard]
        number, group = self._split(shard)
        try:
            with pq.ParquetFile(self.files[number]) as file:
                table = file.read_row_group(group, columns=[self.column], use_threads=False)
        except pa.ArrowException as error:
            raise ValueError(f"the row group cannot be read ({str(error).splitlines()[0][:120]})") from error
        values = table.column(0)
        if pa.types.is_struct(values.type):
            values = pa.chunked_array(
                [chunk.field("bytes") for chunk in values.chunks], values.type.field("bytes").type
            )
        self._kept[shard] = values
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self.budget:
            self._kept.popitem(last=False)
        return values
