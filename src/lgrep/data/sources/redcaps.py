"""RedCaps in the layouts of its downloader, of language-guided SSL and of CLIP-rocket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lgrep.data.caption_index import LeftOut, Published, Row
from lgrep.data.json_stream import json_entries
from lgrep.data.notices import shown
from lgrep.data.records import Unusable, safe_path, tidy_captions
from lgrep.data.sources.lgssl import REDCAPS_COLUMNS, LgsslSource, Share
from lgrep.data.sources.limits import file_store
from lgrep.data.sources.listing import check_folder
from lgrep.data.sources.looking import check_some_exist
from lgrep.data.table import Table
from lgrep.errors import DataError

_ANNOTATIONS = re.compile(r"(.+)_(\d{4})\.json")


class RedCapsSource:
    """RedCaps (arXiv 2111.11431) as it lies on disk; columns `subreddit` and `year` are there for `data.where`.

    The layout is found by looking:

    - `root/annotations/<subreddit>_<year>.json` and `root/images/<subreddit>/<image_id>.jpg`: the official downloader's;
    - `captions=FILE.json`, a list of records with `image_id`, `subreddit` and `caption`: CLIP-rocket's, pictures are
      `root/<subreddit>/<image_id>.jpg` (or below `root/images`); the year is known where records have `created_utc`;
    - `captions=FILE.json`, a dictionary, or neither: language-guided SSL's, see `LgsslSource`.

    Args:
        root: folder of the set.
        captions: file of all captions.
        reference_behaviour: see `LgsslSource`.
        empty: what happens to pictures with an empty caption: `keep` as published, or `drop`.
        max_left_out: largest share of pictures that may be unusable.
        index: folder for the index; null: beside the files that were read, or else the user's cache folder.
    """

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        reference_behaviour: bool = False,
        empty: Literal["keep", "drop"] = "keep",
        max_left_out: Share = 0.1,
        index: str | None = None,
    ) -> None:
        self.root = root
        self.captions = None if captions is None else Path(captions).expanduser()
        self.reference_behaviour = reference_behaviour
        self.empty = empty
        self.max_left_out = max_left_out
        self.index = index
        self._table: Table | None = None

    def training(self) -> Table:
        if self._table is None:
            root = check_folder(self.root, "data.root", "of RedCaps")
            official = self.captions is None and (root / "annotations").is_dir()
            listed = self.captions is not None and _is_list(self.captions)
            self._table = self._open(root) if official or listed else self._lgssl()
        return self._table

    def probe(self) -> None:
        return None

    def _lgssl(self) -> Table:
        dictionary = None if self.captions is None else str(self.captions)
        options: dict[str, Any] = {"empty": self.empty, "max_left_out": self.max_left_out, "index": self.index}
        return LgsslSource(self.root, dictionary, "subreddit_year", self.reference_behaviour, **options).training()

    def _open(self, root: Path) -> Table:
        files = _annotation_files(root) if self.captions is None else [self.captions]
        pictures = root / "images" if (root / "images").is_dir() else root
        table = Published(
            name="redcaps",
            inputs=files,
            settings={"layout": "redcaps", "empty": self.empty},
            columns=pa.schema([("files", pa.string()), *REDCAPS_COLUMNS]),
            rows=partial(self._rows, files),
            store=partial(file_store, pictures, self.reference_behaviour),
            index=self.index,
            max_left_out=self.max_left_out,
            setting="data.root" if self.captions is None else "data.captions",
        ).open()
        check_some_exist(table, root, files[0])
        return table

    def _rows(self, files: list[Path], left_out: LeftOut) -> Iterator[Row]:
        for file in files:
            named = _ANNOTATIONS.fullmatch(file.name) if self.captions is None else None
            subreddit, year = (named[1], int(named[2])) if named else ("", -1)
            for record in _annotations(file) if named else _list(file):
                try:
                    yield self._row(record, subreddit, year)
                except Unusable as error:
                    left_out.add(record.get("image_id", record) if isinstance(record, dict) else record, str(error))

    def _row(self, record: Any, subreddit: str, year: int) -> Row:
        if not isinstance(record, dict) or not isinstance(record.get("image_id"), (str, int)):
            raise Unusable("not a record with image_id and caption")
        name = record.get("subreddit")
        subreddit = name if isinstance(name, str) and name else subreddit
        path = safe_path(f"{subreddit}/{record['image_id']}.jpg")
        if path.count("/") != 1:
            raise Unusable("no path")
        seconds = record.get("created_utc")
        if year < 0 and isinstance(seconds, (int, float)) and 0 <= seconds < 2**32:
            year = datetime.fromtimestamp(seconds, UTC).year
        return Row(
            shown(path[:-4]), tidy_captions(record.get("caption"), self.empty == "keep"), (path, subreddit, year)
        )


def _annotation_files(root: Path) -> list[Path]:
    files = sorted(path for path in (root / "annotations").iterdir() if _ANNOTATIONS.fullmatch(path.name))
    if not files:
        raise DataError(f"data.root={shown(root)}: annotations/ holds no file named like crochet_2017.json")
    return files


def _annotations(file: Path) -> Iterator[Any]:
    """Records of `{"info": ..., "annotations": [...]}`."""
    found = [value for key, value in json_entries(file, "data.root") if key == "annotations"]
    if len(found) != 1 or not isinstance(found[0], list):
        raise DataError(f"data.root: {shown(file)} has no list 'annotations'")
    yield from found[0]


def _list(file: Path) -> Iterator[Any]:
    return (record for _, record in json_entries(file, "data.captions"))


def _is_list(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            return handle.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError as error:
        raise DataError(f"data.captions={shown(file)} cannot be read. Type data.captions=FILE.json") from error
