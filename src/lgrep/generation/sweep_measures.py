"""Diversity and caption fidelity of generated emoji sets, judged by real drawings."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lgrep.data.caption_text import clean_caption
from lgrep.data.emoji import open_emoji
from lgrep.data.notices import shown
from lgrep.data.pictures import decode
from lgrep.data.table import Table, open_set
from lgrep.errors import DataError
from lgrep.files import write_text
from lgrep.generation.emoji_drawings import to_float
from lgrep.generation.emoji_pipeline import load_emoji_pipeline
from lgrep.generation.emoji_report import Drawn, Report

PROTOCOL = 1  # raised when the same set would get other numbers
_NAMES = {"diversity": "diversity", "top-1": "caption_top1", "top-5": "caption_top5",
          "kernel distance x 1000": "kernel_distance_x1000"}  # fmt: skip


class SetMeasures:
    """Numbers of sets, measured once and kept.

    - `diversity`: mean squared distance of a picture's features (unit length) to the mean of its caption's.
    - `caption_top1`, `caption_top5`: share of pictures whose caption a linear discriminant finds first, or among the
      first five, of all training captions. It is fitted to real drawings of the training captions only.
    - `kernel_distance_x1000`: kernel inception distance to these drawings.

    Features are those of ImageNet's EfficientNet-Lite0, see `Report`. Captions of which a picture is missing (broken
    ones that were left out) are not counted.

    Args:
        folder: where the numbers are kept.
        images: pictures of each caption.
    """

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images = folder, images

    def of(self, place: Path) -> dict[str, float]:
        """The numbers of a set.

        Raises:
            DataError: none of its captions is a training caption of the emoji set, or none has all its pictures.
        """
        table = open_set(place)
        return self._kept(f"{table.content_hash}-{self.images}", lambda: self._measured(table))

    def real(self) -> dict[str, float]:
        """The numbers of real drawings: the held-out designer's (diversity: the other designers', within captions)."""
        return self._kept(f"real-{open_emoji().content_hash}", lambda: _named(self._report.references("train")))

    @cached_property
    def _report(self) -> Report:
        every = len(open_emoji().captions)
        return Report(load_emoji_pipeline(), captions=every, each=self.images)

    def _kept(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        path = self.folder / f"{name}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["protocol"] == PROTOCOL:
                values: dict[str, float] = found["values"]
                return values
        except (OSError, ValueError, KeyError, TypeError):
            pass
        values = measure()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"protocol": PROTOCOL, "values": values}, indent=1) + "\n")
        return values

    def _measured(self, table: Table) -> dict[str, float]:
        known = {clean_caption(text): row for row, text in enumerate(self._report.real["train"].captions)}
        of_group = np.array([known.get(str(text), -1) for text in table.captions["text"].to_pylist()])
        chosen = table.column("index") < self.images
        whole = np.bincount(table.group[chosen], minlength=table.num_groups) == self.images
        rows = np.flatnonzero(chosen & (whole & (of_group >= 0))[table.group])
        if not len(rows):
            raise DataError(
                f"{shown(table.name)}: no training caption of the emoji set has {self.images} pictures in this set, so "
                "its fidelity cannot be judged. Make it with data=emoji"
            )
        caption = torch.from_numpy(of_group[table.group[rows]])
        features = torch.cat([self._report.encode(_pictures(table, part)) for part in np.array_split(rows, len(rows) // 256 + 1)])  # fmt: skip
        return _named(self._report.quality("train", Drawn(torch.empty(0), caption, features)))


def _named(values: dict[str, float]) -> dict[str, float]:
    return {new: float(values[old]) for old, new in _NAMES.items()}


def _pictures(table: Table, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
    """Pictures [N, 3, H, W] in [-1, 1]."""
    pixels = np.stack([np.asarray(decode(table.read(int(row)))) for row in rows])
    return to_float(torch.from_numpy(pixels).movedim(-1, 1))
