"""From a sample key to rendered views: what a data-loading worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lgrep.data.batch import Batch, Shipped
from lgrep.data.pairings import Pairing
from lgrep.data.pictures import PictureError, decode
from lgrep.data.randomness import PAIRING_STREAM, REPLACEMENT_STREAM, keyed_generator
from lgrep.data.samplers import SampleKey
from lgrep.data.table import Table
from lgrep.data.transforms import Transform
from lgrep.data.views import View
from lgrep.errors import DataError

MAX_ATTEMPTS = 32  # broken pictures in a row before a sample gives up


@dataclass
class Sample:
    """The V views of one anchor."""

    pixels: list[np.ndarray[Any, Any]]
    params: list[dict[str, Any]]
    rows: list[int]
    group: int
    epoch: int
    replaced: list[tuple[int, int, str]]


class PictureCache:
    """Decoded pictures of one process, up to a number of bytes."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: dict[int, Image.Image] = {}

    def get(self, table: Table, row: int) -> Image.Image:
        """The decoded RGB picture of `row`.

        Raises:
            PictureError, OSError, ValueError: the picture cannot be read.
        """
        picture = self._held.get(row)
        if picture is None:
            picture = decode(table.read(row))
            size = 3 * picture.width * picture.height
            if size <= self.budget:
                self.budget -= size
                self._held[row] = picture
        return picture


class ViewDataset(Dataset[Sample]):
    """Renders the views of an anchor; every random choice comes from the sample's key.

    A broken picture is replaced, never dropped: by another picture of the same anchor first, then by
    another row drawn from the sample's own generator. Replacements are reported in `Sample.replaced`.

    Args:
        table: the pictures.
        pairing: chooses the pictures of an anchor.
        views: V views.
        transforms: by name.
        seed: of the run.
        cache_bytes: decoded pictures kept per process.
    """

    def __init__(
        self,
        table: Table,
        pairing: Pairing,
        views: Sequence[View],
        transforms: Mapping[str, Transform],
        seed: int,
        cache_bytes: int = 0,
    ) -> None:
        self.table = table
        self.pairing = pairing
        self.views = list(views)
        self.transforms = dict(transforms)
        self.seed = seed
        self._cache = PictureCache(cache_bytes)

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, anchor = key
        rows = self.pairing.draw(self.table, anchor, keyed_generator(self.seed, epoch, anchor, PAIRING_STREAM))
        replaced: list[tuple[int, int, str]] = []
        used: dict[int, tuple[int, Image.Image]] = {}
        sample = Sample([], [], [], self.pairing.group(self.table, anchor), epoch, replaced)
        for number, view in enumerate(self.views):
            if view.picture not in used:
                used[view.picture] = self._load(int(rows[view.picture]), anchor, epoch, replaced)
            row, picture = used[view.picture]
            transform = self.transforms[view.transform]
            rng = keyed_generator(self.seed, epoch, anchor, number)
            params = transform.draw(rng, picture.width, picture.height)
            sample.pixels.append(transform.worker(picture, params, view.size))
            sample.params.append(params)
            sample.rows.append(row)
        return sample

    def _load(self, row: int, anchor: int, epoch: int, replaced: list[tuple[int, int, str]]) -> tuple[int, Image.Image]:
        try:
            return row, self._cache.get(self.table, row)
        except (PictureError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        rng = keyed_generator(self.seed, epoch, anchor, REPLACEMENT_STREAM + row)
        siblings = [other for other in self.pairing.substitutes(self.table, anchor) if other != row]
        candidates = [siblings[i] for i in rng.permutation(len(siblings))]
        candidates += [int(other) for other in rng.integers(0, len(self.table), MAX_ATTEMPTS)]
        for other in candidates:
            try:
                picture = self._cache.get(self.table, other)
            except (PictureError, OSError, ValueError):
                continue
            replaced.append((row, other, reason))
            return other, picture
        raise DataError(
            f"{self.table.name}: {self.table.store.locate(row)} cannot be read ({reason}), "
            f"and neither could {len(candidates)} pictures tried in its place"
        )


class Collate:
    """Puts samples into a `Batch` (view-major); picklable, so that workers can build it."""

    def __init__(
        self, views: Sequence[View], transforms: Mapping[str, Transform], labels: np.ndarray[Any, Any] | None
    ) -> None:
        self.views = list(views)
        self.transforms = dict(transforms)
        self.labels = labels

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        rows = torch.tensor([sample.rows for sample in samples], dtype=torch.long).T.contiguous()
        groups = torch.tensor([sample.group for sample in samples], dtype=torch.long)
        return Batch(
            views=[self._stack([sample.pixels[v] for sample in samples]) for v in range(len(self.views))],
            row=rows,
            group=groups.expand(len(self.views), -1).contiguous(),
            label=self._label(rows),
            params=[
                Shipped(self.transforms[view.transform].collate([sample.params[v] for sample in samples]))
                for v, view in enumerate(self.views)
            ],
            replaced=[item for sample in samples for item in sample.replaced],
            epoch=samples[0].epoch,
        )

    def _label(self, rows: Tensor) -> Tensor:
        if self.labels is None:
            return torch.full_like(rows, -1)
        return torch.from_numpy(self.labels[rows.numpy()].astype(np.int64))

    @staticmethod
    def _stack(pixels: list[Any]) -> Tensor:
        return torch.from_numpy(np.stack(pixels)) if isinstance(pixels[0], np.ndarray) else torch.stack(pixels)
