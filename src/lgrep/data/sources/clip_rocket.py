"""CC3M, CC12M and YFCC15M in the files that CLIP-rocket and SLIP read, or as this project makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lgrep.data.arrow_files import as_numpy
from lgrep.data.caption_index import LeftOut, Published, Row
from lgrep.data.metadata import records
from lgrep.data.notices import shown
from lgrep.data.records import Unusable, safe_path, tidy_captions
from lgrep.data.sources.limits import file_store
from lgrep.data.sources.listing import check_folder
from lgrep.data.sources.looking import check_some_exist
from lgrep.data.stores import ArchiveStore
from lgrep.data.table import Table
from lgrep.errors import DataError

_MOST_INDEX = 10**8  # Flickr's numbering in YFCC100M
_PER_ARCHIVE = 1000


class ClipRocketSource:
    """Web pictures with one or several captions each (arXiv 2305.08675, section 4.1 of the code's layout).

    The metadata file says which picture has which captions: `cc3m.npy` and `cc12m.npy` (object arrays of dicts) and
    `yfcc15m.pkl` (a pickled list of tuples) are read without executing them; Parquet files of the same columns, which
    `scripts/prepare_data.py make=...` writes, are read too. What was read is kept in an index (`index`).

    Args:
        metadata: the file; null says how to get it.
        root: folder of the pictures.
        layout: `cc3m`: records have `image_id`, a file below `root`, and `captions`; `cc12m`: the file is called
            `image_name`; `yfcc15m`: (index, title, description), where picture 12345678 is the member `678.jpg` of
            `root/images/12/345.zip` or `root/12/345.zip`.
        empty: what happens to pictures without any caption: `keep` gives them an empty one, as published.
        max_left_out: largest share of records that may be unusable.
        index: folder for the index; null: beside the metadata, or the user's cache folder if that is read-only.
    """

    def __init__(
        self,
        metadata: str | None,
        root: str,
        layout: Literal["cc3m", "cc12m", "yfcc15m"],
        empty: Literal["keep", "drop"] = "keep",
        max_left_out: Annotated[float, Field(ge=0, le=1)] = 0.1,
        index: str | None = None,
    ) -> None:
        self.metadata = None if metadata is None else Path(metadata).expanduser()
        self.root = root
        self.layout = layout
        self.empty = empty
        self.max_left_out = max_left_out
        self.index = index
        self._table: Table | None = None

    def training(self) -> Table:
        if self._table is None:
            metadata = self._metadata()
            root = check_folder(self.root, "data.root", "of pictures")
            zipped = self.layout == "yfcc15m"
            table = Published(
                name=self.layout,
                inputs=[metadata],
                settings={"layout": self.layout, "empty": self.empty},
                columns=_ZIPPED if zipped else _FILES,
                rows=partial(self._rows, metadata),
                store=partial(_archives, _zip_folder(root)) if zipped else partial(file_store, root, False),
                index=self.index,
                max_left_out=self.max_left_out,
            ).open()
            check_some_exist(table, root, metadata)
            self._table = table
        return self._table

    def probe(self) -> None:
        return None

    def _metadata(self) -> Path:
        if self.metadata is None:
            raise DataError(
                f"the captions of {self.layout} are not there yet: data.metadata is not set. Type data.metadata=FILE; "
                "docs/data_formats.md says how to get or make it"
            )
        return self.metadata

    def _rows(self, metadata: Path, left_out: LeftOut) -> Iterator[Row]:
        row_of: Callable[[Any, bool], Row] = {"cc3m": _cc3m, "cc12m": _cc12m, "yfcc15m": _yfcc15m}[self.layout]
        keep = self.empty == "keep"
        for batch in records(metadata):
            for record in batch:
                try:
                    yield row_of(record, keep)
                except Unusable as error:
                    left_out.add(record, str(error))


_FILES = pa.schema([("files", pa.string())])
_ZIPPED = pa.schema([("archive", pa.int32()), ("member", pa.string())])


def _cc3m(record: Any, keep: bool) -> Row:
    return _named(record, "image_id", keep)


def _cc12m(record: Any, keep: bool) -> Row:
    return _named(record, "image_name", keep)


def _named(record: Any, field: str, keep: bool) -> Row:
    if not isinstance(record, dict) or field not in record or "captions" not in record:
        raise Unusable(f"not a record with {field} and captions")
    name = record[field]
    path = safe_path(str(name) if type(name) is int else name)
    return Row(shown(path), tidy_captions(record["captions"], keep), (path,))


def _yfcc15m(record: Any, keep: bool) -> Row:
    if isinstance(record, dict):
        index, texts = record.get("index"), record.get("captions")
    elif isinstance(record, (tuple, list)) and len(record) == 3:
        index, texts = record[0], list(record[1:])
    else:
        raise Unusable("not an index, a title and a description")
    if type(index) is not int or not 0 <= index < _MOST_INDEX:
        raise Unusable("an index that is no whole number of at most 8 digits")
    archive, member = divmod(index, _PER_ARCHIVE)
    return Row(f"{index:08d}", tidy_captions(texts, keep), (archive, f"{member:03d}.jpg"))


class FlickrStore(ArchiveStore):
    """Members of the zips that YFCC100M's pictures are kept in: archive 12345 is `12/345.zip`.

    Args:
        root: folder of the hundred folders.
        archive: number of the archive of every row.
        member: name of the member of every row.
    """

    plain = ("root",)

    def __init__(self, root: Path, archive: np.ndarray[Any, Any], member: pa.Array | pa.ChunkedArray) -> None:
        super().__init__([], archive, member)
        self.root = root
        self.archives: Sequence[Path] = _Archives(root)  # type: ignore[assignment]

    def subset(self, rows: np.ndarray[Any, Any]) -> FlickrStore:
        return FlickrStore(self.root, self.archive[rows], self.member.take(pa.array(rows)))


class _Archives(Sequence[Path]):
    """Paths by number; a list of all would take a second to make."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __len__(self) -> int:
        return _MOST_INDEX // _PER_ARCHIVE

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.root / f"{number // 1000:02d}" / f"{number % 1000:03d}.zip"


def _archives(root: Path, pictures: pa.Table) -> FlickrStore:
    return FlickrStore(root, as_numpy(pictures["archive"]), pictures["member"])


def _zip_folder(root: Path) -> Path:
    """The code's `root/images/aa/bbb.zip`, or its documentation's `root/aa/bbb.zip`."""
    return root / "images" if (root / "images").is_dir() else root
