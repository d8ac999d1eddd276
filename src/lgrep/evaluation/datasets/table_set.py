"""An evaluation set whose pictures are rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image

from lgrep.data.pictures import PictureError, decode
from lgrep.data.table import Table
from lgrep.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from lgrep.errors import DataError
from lgrep.evaluation.contract import Metric, Part
from lgrep.evaluation.datasets.listed import PARTS
from lgrep.evaluation.features import TablePictures

_SAMPLE = 512  # training pictures that channel statistics are taken from
_SIDE = 64

Rows = np.ndarray[Any, Any]
Channels = tuple[float, float, float]


class TableSet:
    """Parts of tables with the columns `label` or `labels`; see `lgrep.evaluation.contract.EvaluationSet`.

    Attributes:
        imagenet_classes: number of every class among ImageNet's 1000; empty when there is no such relation.
        settings: what chose the parts, for records.

    Args:
        name: of the set.
        rows: part -> (table, rows of it).
        class_names: one per class; empty without classes.
        templates: prompts for them.
        metric: what its leaderboard counts.
        notes: protocol footnotes.
        data_hash: identity; None: that of the tables.
        statistics: `imagenet` takes ImageNet's mean and std, `sample` those of up to 512 training pictures.
        captions: whether the tables' texts are the pictures' captions.
        imagenet_classes: see above.
        settings: see above.
    """

    def __init__(
        self,
        name: str,
        rows: Mapping[str, tuple[Table, Rows]],
        class_names: Sequence[str],
        templates: Sequence[str] = (),
        metric: Metric = "top1",
        notes: Sequence[str] = (),
        data_hash: str | None = None,
        statistics: str = "imagenet",
        captions: bool = False,
        imagenet_classes: Sequence[int] = (),
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.templates = tuple(templates)
        self.metric: Metric = metric
        self.imagenet_classes = tuple(imagenet_classes)
        self.settings = settings or {}
        tables = {id(table): table for table, _ in rows.values()}
        self.data_hash = data_hash or "-".join(table.content_hash for table in tables.values())
        self._rows = {part: rows[part] for part in PARTS if part in rows and len(rows[part][1])}
        self._statistics = statistics
        whose = "of up to 512 training pictures" if statistics == "sample" else "ImageNet's"
        self.notes = (*notes, f"channel statistics are {whose}, for encoders without their own")
        self._captions = captions
        self._parts: dict[str, Part] = {}

    def parts(self) -> dict[str, Part]:
        if not self._parts:
            self._parts = {part: self._part(*place) for part, place in self._rows.items()}
        return self._parts

    @property
    def mean(self) -> Channels:
        return self._channels[0]

    @property
    def std(self) -> Channels:
        return self._channels[1]

    @cached_property
    def _channels(self) -> tuple[Channels, Channels]:
        if self._statistics != "sample":
            return IMAGENET_MEAN, IMAGENET_STD
        return sampled_statistics(*self._rows.get("train", next(iter(self._rows.values()))))

    def _part(self, table: Table, rows: Rows) -> Part:
        if table.has("labels"):
            labels = torch.zeros(len(rows), self.num_classes, dtype=torch.bool)
            for place, some in enumerate(table.pictures["labels"].take(rows).to_pylist()):
                labels[place, some] = True
        elif table.has("label"):
            labels = torch.from_numpy(table.column("label")[rows].astype(np.int64))
        else:
            labels = torch.full((len(rows),), -1)
        captions = [table.texts(int(row)) for row in rows] if self._captions else None
        return Part(TablePictures(table, rows), labels, captions)


def rows_by_part(table: Table) -> dict[str, tuple[Table, Rows]]:
    """Rows of every part, by the column `part`."""
    found = {}
    for part in PARTS:
        rows = np.flatnonzero(pc.equal(table.pictures["part"], part).to_numpy())
        if len(rows):
            found[part] = (table, rows)
    return found


def sampled_statistics(table: Table, rows: Rows) -> tuple[Channels, Channels]:
    """Channel mean and standard deviation in [0, 1] of some pictures, evenly spaced, at 64 x 64 px.

    Raises:
        DataError: none of them can be decoded.
    """
    values = []
    for row in rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).astype(int))]:
        try:
            picture = decode(table.read(int(row)))
        except (OSError, ValueError, PictureError):
            continue  # whoever needs the picture itself names it
        values.append(np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)).reshape(-1, 3))
    if not values:
        raise DataError(f"{table.name}: none of the training pictures that channel statistics need can be decoded")
    pixels = np.concatenate(values) / 255.0
    mean, std = pixels.mean(0).tolist(), np.maximum(pixels.std(0), 1e-3).tolist()
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
