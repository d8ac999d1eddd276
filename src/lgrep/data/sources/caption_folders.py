"""Synthetic pictures in the published layout: a caption file, and one folder of pictures per generation seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from lgrep.data.caption_csv import CaptionRows, read_caption_csv
from lgrep.data.notices import notice, shown
from lgrep.data.sources.published import PublishedSchedule
from lgrep.data.stores import RootsStore
from lgrep.data.table import RootsTable
from lgrep.errors import ConfigError, DataError

_LOOKED_FOR = 16  # pictures of each folder that are looked for when the set is opened
_HOW = (
    "It is a CSV file with rows 'relative/path.png,caption', and per generation seed one folder in which that path is a "
    "picture of that caption; docs/data_stablerep.md says how to get or make both. Type data.csv=FILE.csv and "
    "data.root=DIR (DIR/ddim_2.0_seed_1 and so on) or data.folder_list=[DIR1,DIR2,...]"
)


class CaptionFolders:
    """StableRep's data (arXiv 2306.00984): the same relative path below several folders is one caption's pictures.

    Args:
        csv: caption file, rows `relative path,caption`; `lgrep.data.caption_csv` has the rules.
        root: folder that holds one folder `<sampler>_<guidance_scale>_seed_<n>` per seed, as the published
            generator names them.
        guidance_scale: of the folders below `root`.
        seeds: of the folders below `root`: a number n for 1..n, or a list.
        sampler: of the folders below `root`.
        folder_list: the folders themselves, instead of `root`.
        same_text: what rows of equal caption text are to each other: `separate` anchors, hence negatives, as
            published, or `merge`d into one anchor with the pictures of all of them.
        schedules: lengths that `duration=NAME` may name.
    """

    def __init__(
        self,
        csv: str | None = None,
        root: str | None = None,
        guidance_scale: NonNegativeFloat = 2.0,
        seeds: PositiveInt | tuple[NonNegativeInt, ...] = 10,
        sampler: Literal["ddim", "plms"] = "ddim",
        folder_list: tuple[str, ...] | None = None,
        same_text: Literal["separate", "merge"] = "separate",
        schedules: Mapping[str, PublishedSchedule] | None = None,
    ) -> None:
        if root is not None and folder_list is not None:
            raise ConfigError(
                "data.root and data.folder_list both say where the pictures are. Type data.root=null or data.folder_list=null"
            )
        self.csv = csv
        self.root = None if root is None else Path(root)
        self.guidance_scale = float(guidance_scale)
        self.seeds = _distinct("seeds", range(1, seeds + 1) if isinstance(seeds, int) else seeds, "[1,2,3]")
        self.sampler = sampler
        self.folder_list = (
            None if folder_list is None else [Path(f) for f in _distinct("folder_list", folder_list, "[DIR1,DIR2]")]
        )
        self.same_text = same_text
        self.schedules = dict(schedules or {})
        self._table: RootsTable | None = None

    def training(self) -> RootsTable:
        if self._table is None:
            roots, file = self._inputs()
            rows = read_caption_csv(file)
            if rows.dropped:
                notice(
                    f"{file}: {rows.dropped} of {rows.dropped + len(rows.path)} rows are left out, since column 1 is no "
                    f"path of a .png, .jpg or .jpeg (the first: '{shown(rows.first_dropped[:80])}')"
                )
            _check_paths(file, rows.path, roots)
            self._table = self._build(file, roots, rows)
        return self._table

    def probe(self) -> None:
        return None

    def _inputs(self) -> tuple[list[Path], Path]:
        no_folders = self.root is None and self.folder_list is None
        unset = ["data.csv"] * (self.csv is None) + ["data.root (or data.folder_list)"] * no_folders
        if unset:
            raise DataError(f"the data set is not there yet: {' and '.join(unset)} not set. {_HOW}")
        assert self.csv is not None
        file = Path(self.csv)
        if not file.is_file():
            raise DataError(f"data.csv={file} is no file. {_HOW}")
        if self.folder_list is not None:
            missing = [str(root) for root in self.folder_list if not root.is_dir()]
            if missing:
                raise DataError(
                    f"data.folder_list: {len(missing)} of {len(self.folder_list)} folders are missing: {_few(missing)}. "
                    "Leave them out of data.folder_list=[...], or make them (docs/data_stablerep.md)"
                )
            return self.folder_list, file
        return self._seed_folders(), file

    def _seed_folders(self) -> list[Path]:
        """`root/ddim_2.0_seed_1`, ...; a whole scale may also be written without its decimal."""
        assert self.root is not None
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root} is no folder. {_HOW}")
        scales = [str(self.guidance_scale)]  # the published generator formats a float
        if self.guidance_scale.is_integer():
            scales.append(str(int(self.guidance_scale)))
        folders, missing = [], []
        for seed in self.seeds:
            names = [f"{self.sampler}_{scale}_seed_{seed}" for scale in scales]
            found = [self.root / name for name in names if (self.root / name).is_dir()]
            if len(found) > 1:
                raise DataError(
                    f"data.root={self.root} holds both {names[0]} and {names[1]}. Remove one of them, or type "
                    "data.root=null data.folder_list=[DIR1,DIR2,...]"
                )
            folders += found
            missing += [] if found else [names[0]]
        if missing:
            raise DataError(
                f"data.root={self.root} lacks {len(missing)} of {len(self.seeds)} folders: {_few(missing)}. "
                f"{self._what_there_is()} (docs/data_stablerep.md)"
            )
        return folders

    def _what_there_is(self) -> str:
        assert self.root is not None
        there = sorted(path.name for path in self.root.glob("*_*_seed_*") if path.is_dir())
        if not there:
            return "It holds no folder of that kind at all: point data.root=DIR elsewhere, or make them"
        return f"It holds {_few(there)}: type the data.guidance_scale=..., data.seeds=[...], data.sampler=... of these, or make them"

    def _build(self, file: Path, roots: list[Path], rows: CaptionRows) -> RootsTable:
        path, text = rows.path, rows.text
        starts = np.arange(len(path) + 1, dtype=np.int64)
        captions = pa.table({"id": path, "text": text})
        if self.same_text == "merge":
            path, captions, starts = _merged(path, text)
        store = RootsStore(roots, path)
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256")
        digest.update("\0".join([self.same_text, *store.names]).encode())
        return RootsTable(store, captions, starts * len(roots), file.stem, digest.hexdigest()[:16])


def _merged(path: pa.ChunkedArray, text: pa.ChunkedArray) -> tuple[pa.Array, pa.Table, np.ndarray[Any, Any]]:
    """Paths ordered by the first row of their text, the different texts, and the first path of each text."""
    encoded = text.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))])
    path = path.take(pa.array(order)).combine_chunks()
    return path, pa.table({"id": path.take(pa.array(starts[:-1])), "text": encoded.dictionary}), starts


def _check_paths(file: Path, path: pa.ChunkedArray, roots: Sequence[Path]) -> None:
    """Mistakes that would only show as a run full of unreadable pictures, or not at all."""
    absolute = int(pc.sum(pc.starts_with(path, "/")).as_py())
    if absolute:
        raise DataError(
            f"data.csv={file}: {absolute} rows have an absolute path in column 1; paths must be relative to every folder"
        )
    repeated = 0 if _ascending(path) else len(path) - pc.count_distinct(path).as_py()
    if repeated:
        notice(f"{file}: {repeated} rows repeat the path of an earlier row; such pictures are their own negatives")
    looked_for = [path[int(row)].as_py() for row in np.linspace(0, len(path) - 1, _LOOKED_FOR)]
    for root in roots:
        if not any((root / name).is_file() for name in looked_for):
            raise DataError(
                f"{root} holds none of {_LOOKED_FOR} pictures of data.csv={file} that were looked for, e.g. "
                f"{root / looked_for[0]}. Point data.root or data.folder_list to folders that column 1 is relative to, "
                "or leave this one out with data.seeds=[...]"
            )


def _ascending(path: pa.ChunkedArray) -> bool:
    """Whether every path comes after the one before, which rules out repetitions at little cost."""
    return len(path) < 2 or bool(pc.all(pc.less(path[:-1], path[1:])).as_py())


def _distinct(name: str, values: Sequence[Any], example: str) -> list[Any]:
    if not values or len(set(values)) != len(values):
        what = "is empty" if not values else "names something twice"
        raise ConfigError(f"data.{name}={list(values)} {what}. Type data.{name}={example} with different entries")
    return list(values)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
