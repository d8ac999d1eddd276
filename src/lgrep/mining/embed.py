"""Vectors of a set, made once and kept."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lgrep.data.filters import caption_rows, keyed_hash
from lgrep.data.notices import shown
from lgrep.data.progress import Progress
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError
from lgrep.mining.encoders import Encoder, EncoderOptions, build_encoder
from lgrep.mining.encoders.base import digest
from lgrep.mining.encoders.stored import feature_columns
from lgrep.mining.ranges import RangeFile
from lgrep.mining.settings import Miner
from lgrep.mining.units import Rows, Units, normalised

PUBLISHED = "sentence_transformers/all-mpnet-base-v2"
_BLOCK = 2**18
_PIECE = {"captions": 2048, "pictures": 256}  # rows encoded between two looks at the progress


class Embeddings:
    """Unit vectors of all captions (or pictures) of a set in a folder whose name says what they are.

    Args:
        table: the set.
        miner: encoder and its settings.
        cache: folder of such folders.
        rank: of this process, which picks the GPU.
    """

    def __init__(self, table: Table, miner: Miner, cache: Path, rank: int = 0) -> None:
        self.table, self.miner = table, miner
        self.encoder = _encoder(table, miner, rank)
        self.of_captions = self.encoder.of == "captions"
        rows = table.num_groups if self.of_captions else len(table)
        about = {
            "set": table.name,
            "content_hash": table.content_hash,
            "of": self.encoder.of,
            "encoder": self.encoder.name,
            **self.encoder.settings,
            "rows": rows,
            "dim": self.encoder.dim,
            "dtype": miner.dtype,
            "range_rows": miner.range_rows,
        }
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.encoder.name).strip("-")[-40:]
        self.folder = cache / f"{name}-{digest(about)}"
        self._in_hand = 0  # rows of the range that is being made
        self.folder.mkdir(parents=True, exist_ok=True)
        _describe(self.folder / "about.json", about)
        self.file = RangeFile(self.folder / "vectors.bin", rows, self.encoder.dim, miner.dtype, miner.range_rows)

    def make(self, progress: bool = True) -> None:
        """Encode what is missing or damaged."""
        self.file.drop_damaged()
        fill(self.file, self._encoded, self.encoder.of if progress else None, lambda: self._in_hand)

    def units(self, of_captions: bool) -> Units:
        """The rows of a neighbour table, with what excludes each other."""
        table, values = self.table, self.file.array()
        ceiling = self.miner.max_similarity
        if of_captions:
            if not self.of_captions:
                values = self._caption_means(values)
            return Units(values, None, _repeated(keyed_hash(table.captions["text"], 0)), ceiling)
        source = caption_rows(table) if self.of_captions else None
        label = None if self.miner.reference_behaviour else caption_rows(table)
        return Units(values, source, label, ceiling)

    def _encoded(self, rows: range) -> NDArray[Any]:
        step = _PIECE[self.encoder.of]
        parts = []
        for start in range(rows.start, rows.stop, step):
            parts.append(self.encoder.encode(range(start, min(start + step, rows.stop))))
            self._in_hand = min(start + step, rows.stop) - rows.start
        vectors, self._in_hand = np.concatenate(parts), 0
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise DataError(
                f"{self.encoder.name} gives NaN or infinite values for {int(bad.sum()):,} {self.encoder.of}, first "
                f"{rows[int(np.argmax(bad))]:,}. Type miner.precision=float32"
            )
        return normalised(np.array(vectors, np.float32)).astype(self.miner.dtype)

    def _caption_means(self, values: NDArray[Any]) -> NDArray[Any]:
        table = self.table
        starts = np.append(np.cumsum(table.counts) - table.counts, len(table))

        def mean(captions: range) -> NDArray[Any]:
            first, last = int(starts[captions.start]), int(starts[captions.stop])
            found = np.zeros((len(captions), values.shape[1]), np.float32)
            member = caption_rows_of(starts, captions)
            np.add.at(found, member, normalised(np.array(values[first:last], np.float32)))
            return normalised(found).astype(values.dtype)

        path = self.folder / "captions.bin"
        file = RangeFile(path, table.num_groups, values.shape[1], self.miner.dtype, self.miner.range_rows)
        file.drop_damaged()
        file.fill(mean)
        return file.array()


def caption_rows_of(starts: Rows, captions: range) -> Rows:
    """For the pictures of some captions, in order: which of those captions each belongs to, from 0."""
    counts = np.diff(starts[captions.start : captions.stop + 1])
    return np.repeat(np.arange(len(captions)), counts)


def searched_rows(units: Units, table: Table, of_captions: bool) -> Rows:
    """Rows that have a vector, and a picture to show."""
    count = len(units.values)
    some = np.zeros(count, bool)
    for start in range(0, count, _BLOCK):
        some[start : start + _BLOCK] = (units.values[start : start + _BLOCK] != 0).any(axis=1)
    some = some if units.source is None else some[units.source]
    return np.flatnonzero(some & (table.counts > 0) if of_captions else some)


def fill(
    file: RangeFile,
    make: Callable[[range], NDArray[Any]],
    unit: str | None,
    in_hand: Callable[[], int] = lambda: 0,
) -> None:
    """Fill a file, with a progress bar of what all processes do unless `unit` is None.

    Args:
        file: to fill.
        make: see `RangeFile.fill`.
        unit: of the rows.
        in_hand: rows of an unfinished range that this process has made.
    """
    before = file.finished_rows
    if unit is None or before == file.rows:
        file.fill(make)
        return
    with Progress(file.rows, before, lambda: file.finished_rows - before + in_hand(), unit):
        file.fill(make)


def _encoder(table: Table, miner: Miner, rank: int) -> Encoder:
    name = miner.encoder
    if name == "auto":
        stored = feature_columns(table)
        name = f"features/{stored[0]}" if stored else PUBLISHED
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = (f"cuda:{rank % gpus}" if gpus else "cpu") if miner.device == "auto" else miner.device
    try:
        on_cpu = torch.device(device).type == "cpu"
    except RuntimeError as error:
        raise ConfigError(f"miner.device={device}: torch knows no such device. Type miner.device=auto") from error
    precision = ("float32" if on_cpu else "float16") if miner.precision == "auto" else miner.precision
    batch_size = (64 if on_cpu else 512) if miner.batch_size == "auto" else miner.batch_size
    options = EncoderOptions(device, batch_size, precision, miner.image_size, miner.workers)
    return build_encoder(name, table, options)


def _describe(path: Path, about: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(about, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"cannot write {shown(path)} ({error.strerror}). Type cache=FOLDER with another one") from error


def _repeated(hashes: NDArray[np.uint64]) -> Rows | None:
    """A number that equal texts share; None where all differ."""
    values, numbers = np.unique(hashes, return_inverse=True)
    return None if len(values) == len(hashes) else numbers.astype(np.int64)
