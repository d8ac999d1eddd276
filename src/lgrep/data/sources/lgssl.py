"""The layout of language-guided SSL: folders of pictures with a JSON file beside each, or a dictionary of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from lgrep.data.caption_index import LeftOut, Published, Row
from lgrep.data.caption_text import NoCaption, json_field
from lgrep.data.json_stream import json_entries
from lgrep.data.notices import reason_of, shown
from lgrep.data.records import Unusable, safe_path, tidy_captions
from lgrep.data.sources.limits import file_store
from lgrep.data.sources.listing import SUFFIXES, check_folder
from lgrep.data.sources.looking import check_some_exist
from lgrep.data.table import Table
from lgrep.errors import DataError

_READERS = 8  # of small files; disks of a cluster answer many at once
_OF_REDCAPS = re.compile(r"(.+)_(\d{4})_[^_]+")

Share = Annotated[float, Field(ge=0, le=1)]


class LgsslSource:
    """Pictures `root/<directory>/<instance>.<ext>` with captions (arXiv 2302.12248, layout of the authors' code).

    Captions come from `<instance>.json` beside each picture (field `caption`), or all from a dictionary
    `{directory: {instance: [path, caption]}}`, which is faster. Names end at their first dot, as published. What was
    read is kept in an index; it is made anew when the dictionary, or the list of files of a directory, changes.

    Args:
        root: folder of the directories.
        dictionary: JSON file of the whole set; null: read the files beside the pictures.
        directory_names: `subreddit_year` splits names such as `crochet_2017_000001` into the columns `subreddit` and
            `year`, for `data.where.year=2020`; `plain` takes them as they are.
        reference_behaviour: leave out pictures of more than 1024 kB or an aspect ratio above 20, as published for
            RedCaps. They are replaced when they are drawn.
        empty: what happens to pictures with an empty caption: `keep` as published, or `drop`.
        max_left_out: largest share of pictures that may be unusable.
        index: folder for the index; null: beside the dictionary or root, or else the user's cache folder.
    """

    def __init__(
        self,
        root: str,
        dictionary: str | None = None,
        directory_names: Literal["plain", "subreddit_year"] = "plain",
        reference_behaviour: bool = False,
        empty: Literal["keep", "drop"] = "keep",
        max_left_out: Share = 0.1,
        index: str | None = None,
    ) -> None:
        self.root = root
        self.dictionary = None if dictionary is None else Path(dictionary).expanduser()
        self.directory_names = directory_names
        self.reference_behaviour = reference_behaviour
        self.empty = empty
        self.max_left_out = max_left_out
        self.index = index
        self._table: Table | None = None

    def training(self) -> Table:
        if self._table is None:
            root = check_folder(self.root, "data.root", "of folders of pictures")
            beside = self.dictionary is None
            table = Published(
                name=shown(root.absolute().name if self.dictionary is None else self.dictionary.stem),
                inputs=[root, *_directories(root)] if self.dictionary is None else [self.dictionary],
                settings={"layout": "lgssl", "empty": self.empty, "names": self.directory_names},
                columns=self._columns(),
                rows=partial(self._rows_beside, root) if beside else self._rows_of_dictionary,
                store=partial(file_store, root, self.reference_behaviour),
                index=self.index,
                max_left_out=self.max_left_out,
                setting="data.root" if beside else "data.dictionary",
            ).open()
            check_some_exist(table, root, root if self.dictionary is None else self.dictionary)
            self._table = table
        return self._table

    def probe(self) -> None:
        return None

    def _columns(self) -> pa.Schema:
        split = self.directory_names == "subreddit_year"
        return pa.schema([("files", pa.large_binary()), *(REDCAPS_COLUMNS if split else [])])

    def _row(self, directory: str, instance: str, path: str, caption: Any) -> Row:
        captions = tidy_captions(caption, self.empty == "keep")
        file = os.fsencode(path)
        further = subreddit_and_year(directory) if self.directory_names == "subreddit_year" else ()
        return Row(shown(f"{directory}/{instance}"), captions, (file, *further))

    def _rows_of_dictionary(self, left_out: LeftOut) -> Iterator[Row]:
        assert self.dictionary is not None
        for directory, entries in json_entries(self.dictionary, "data.dictionary"):
            if directory is None or not isinstance(entries, dict):
                raise DataError(
                    f"data.dictionary={shown(self.dictionary)} is no dictionary of directories (it should read "
                    '{"directory": {"instance": ["path", "caption"]}})'
                )
            for instance, entry in entries.items():
                try:
                    if not isinstance(entry, list) or len(entry) != 2:
                        raise Unusable("not a path and a caption")
                    yield self._row(directory, instance, safe_path(entry[0]), entry[1])
                except Unusable as error:
                    left_out.add(f"{directory}/{instance}", str(error))

    def _rows_beside(self, root: Path, left_out: LeftOut) -> Iterator[Row]:
        with ThreadPoolExecutor(_READERS) as pool:
            for directory in _directories(root):
                pictures, captions = _instances(directory)
                for lonely in sorted(pictures.keys() ^ captions.keys()):
                    reason = "no JSON file beside it" if lonely in pictures else "a JSON file without a picture"
                    left_out.add(f"{directory.name}/{lonely}", reason)
                both = sorted(pictures.keys() & captions.keys())
                for instance, text in zip(
                    both, pool.map(_caption, [directory / captions[one] for one in both]), strict=True
                ):
                    try:
                        if isinstance(text, NoCaption):
                            raise Unusable("a JSON file without a caption that is a text")
                        yield self._row(directory.name, instance, f"{directory.name}/{pictures[instance]}", text)
                    except Unusable as error:
                        left_out.add(f"{directory.name}/{instance}", str(error))


REDCAPS_COLUMNS = [("subreddit", pa.string()), ("year", pa.int16())]


def subreddit_and_year(directory: str) -> tuple[str, int]:
    """Parts of a name `<subreddit>_<year>_<id>`; subreddits may have underscores. Empty and -1 for other names.

    >>> subreddit_and_year("data_is_beautiful_2017_000001"), subreddit_and_year("00017")
    (('data_is_beautiful', 2017), ('', -1))
    """
    parts = _OF_REDCAPS.fullmatch(directory)
    return (shown(parts[1]), int(parts[2])) if parts else ("", -1)


def _directories(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _instances(directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Instance -> picture file, and instance -> JSON file."""
    pictures: dict[str, str] = {}
    captions: dict[str, str] = {}
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise DataError(f"data.root: {shown(directory)} cannot be read ({reason_of(error)})") from error
    for name in names:
        instance, _, suffix = name.partition(".")
        if not instance:
            continue
        if suffix.lower().endswith("json"):
            captions.setdefault(instance, name)
        elif os.path.splitext(name)[1].lower() in SUFFIXES:
            pictures.setdefault(instance, name)
    return pictures, captions


def _caption(file: Path) -> str | NoCaption:
    try:
        return json_field(file.read_bytes())
    except OSError as error:
        return NoCaption(reason_of(error))
    except NoCaption as error:
        return error
