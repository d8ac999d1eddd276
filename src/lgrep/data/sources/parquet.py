"""Parquet files and saved `datasets` folders, read in place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lgrep.data.arrow_files import as_numpy
from lgrep.data.containers.columns import Choice, choose_columns, class_names
from lgrep.data.containers.index import Container, Index
from lgrep.data.containers.parquet import ParquetStore, file_schema, scan_arrow, scan_parquet
from lgrep.data.containers.patterns import list_files
from lgrep.data.notices import notice
from lgrep.data.sources.indexed import IndexedSource, byte_ranges
from lgrep.errors import DataError

_SPLITS = ("train", "test", "validation", "val", "valid", "dev")
_LARGE = 2**22  # bytes of a row group that make random reads slow


class ParquetSource(IndexedSource):
    """Pictures in a column of Parquet files, or in a folder that the `datasets` library saved (`save_to_disk`).

    Captions and labels are read once into an index. A picture of a Parquet file is read with its whole row group; of a
    saved folder (uncompressed Arrow) it is read alone.

    Args:
        files: folder, file, glob or brace pattern, or a list of these.
        split: of a folder with several (`train-00000-of-00005.parquet`, `train/...`); None: all files.
        image_column: binary, or a struct with the field `bytes`; `auto`: by type and name.
        caption_column: texts or lists of texts, or several such columns; `auto`: by name; None: none.
        label_column: whole numbers or texts; `auto`: by name; None: none.
        group: which pictures are siblings: `picture` none, `caption` those of equal (first) captions.
        index: folder for the index; by default beside the files, or else in the user's cache folder.
        probe_share: share of the labelled pictures kept out of training for the online probes.
        max_left_out: largest share of rows that may be left out.
    """

    setting = "data.files"

    def __init__(
        self,
        files: str | tuple[str, ...],
        split: str | None = "train",
        image_column: str = "auto",
        caption_column: str | tuple[str, ...] | None = "auto",
        label_column: str | None = "auto",
        group: Literal["picture", "caption"] = "picture",
        index: str | None = None,
        probe_share: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        max_left_out: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        super().__init__(index, probe_share, max_left_out)
        self.given = files
        self.split = split
        captions = tuple(caption_column) if isinstance(caption_column, (list, tuple)) else caption_column
        self.choice = Choice(image_column, captions, label_column)
        self.group = group

    def files(self) -> list[Path]:
        folder = Path(self.given).expanduser() if isinstance(self.given, str) else None
        if folder is not None and (folder / "dataset_dict.json").is_file():
            if not (folder / str(self.split) / "state.json").is_file():
                there = sorted(path.parent.name for path in folder.glob("*/state.json"))
                raise DataError(f"{folder} has no split {self.split}; it has {', '.join(there)}. Type data.split=NAME")
            folder = folder / str(self.split)
        if folder is not None and (folder / "state.json").is_file():
            return _saved_files(folder)
        files = list_files(self.given, (".parquet", ".arrow"), self.setting)
        return _of_split(files, self.split) if folder is not None and folder.is_dir() else files

    def container(self, files: Sequence[Path]) -> Container:
        kinds = {path.suffix for path in files}
        if kinds not in ({".parquet"}, {".arrow"}):
            raise DataError(
                f"{self.setting} mixes {' and '.join(sorted(kinds))} files. Name .parquet or .arrow files only"
            )
        schema = file_schema(files[0])
        columns = choose_columns(schema, str(files[0]), self.choice)
        names = class_names(schema, columns.label)
        if kinds == {".arrow"}:
            scan = partial(scan_arrow, choice=self.choice)
            return Container("arrow", scan, byte_ranges, vars(self.choice), self.group, names)
        scan = partial(scan_parquet, choice=self.choice)
        path = columns.picture + ".bytes" * columns.nested
        return Container("parquet", scan, partial(_groups, path), vars(self.choice), self.group, names)

    def _check(self, index: Index) -> None:
        super()._check(index)
        store = index.table.store
        if isinstance(store, ParquetStore):
            about = pq.read_metadata(store.files[0])
            size = max((about.row_group(number).total_byte_size for number in range(about.num_row_groups)), default=0)
            if size > _LARGE:
                notice(
                    f"{self.setting}: a picture is read with its row group of up to {size / 2**20:.0f} MB; "
                    "loader.order=shards keeps such reads few, and scripts/prepare_data.py makes a set without them"
                )


def _groups(column: str, files: Sequence[Path], rows: pa.Table, parts: Sequence[int]) -> ParquetStore:
    return ParquetStore(files, parts, column, as_numpy(rows["shard"]), as_numpy(rows["offset"]))


def _saved_files(folder: Path) -> list[Path]:
    path = folder / "state.json"
    try:
        state: Any = json.loads(path.read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        if not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise ValueError("_data_files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}). Save the data set again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise DataError(f"{folder} lacks {', '.join(missing[:3]) or 'data'}; state.json lists {len(names):,} files")
    return [folder / name for name in names]


def _of_split(files: list[Path], split: str | None) -> list[Path]:
    """Files whose name, or whose folder's, begins with the split; all where no file tells its split."""
    if split is None:
        return files
    told = {path: _split_of(path) for path in files}
    chosen = [path for path in files if told[path] == split]
    if chosen or not any(told.values()):
        return chosen or files
    there = sorted({name for name in told.values() if name})
    raise DataError(
        f"data.files has no split {split}; it has {', '.join(there)}. Type data.split=NAME or data.split=null"
    )


def _split_of(path: Path) -> str | None:
    words = (path.name.partition("-")[0].partition(".")[0], path.parent.name)
    return next((word for word in words if word in _SPLITS), None)
