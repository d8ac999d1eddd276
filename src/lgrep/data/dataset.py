"""From a sample key to rendered views: what a data-loading worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lgrep.data.batch import Batch, Shipped
from lgrep.data.failures import LESS_MEMORY, InHand
from lgrep.data.notices import reason_of, shown
from lgrep.data.pairings import Pairing
from lgrep.data.pictures import PictureError, decode
from lgrep.data.randomness import PAIRING_STREAM, REPLACEMENT_STREAM, TEXT_STREAM, keyed_generator
from lgrep.data.samplers import SampleKey
from lgrep.data.table import Table
from lgrep.data.text import TextViews
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
    anchor: int = -1
    text: np.ndarray[Any, Any] | None = None  # [T, L]
    text_rows: list[int] = field(default_factory=list)


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

    A broken picture is replaced, never dropped: by a picture of the same anchor that is not used yet, then by one
    that is, then by another row drawn from the sample's own generator. Replacements are reported in
    `Sample.replaced`. Memory errors end the run: what is replaced must not depend on the machine's state.

    Args:
        table: the pictures.
        pairing: chooses the pictures of an anchor.
        views: V views.
        transforms: by name.
        seed: of the run.
        cache_bytes: decoded pictures kept per process.
        texts: makes the text views; None: no text.
    """

    def __init__(
        self,
        table: Table,
        pairing: Pairing,
        views: Sequence[View],
        transforms: Mapping[str, Transform],
        seed: int,
        cache_bytes: int = 0,
        texts: TextViews | None = None,
    ) -> None:
        self.table = table
        self.pairing = pairing
        self.views = list(views)
        self.transforms = dict(transforms)
        self.seed = seed
        self.texts = texts
        self.in_hand = InHand()
        self._cache = PictureCache(cache_bytes)

    def __getitem__(self, key: SampleKey) -> Sample:
        try:
            return self._sample(*key)
        except MemoryError as error:
            where = shown(self.table.store.locate(self.in_hand.row()))
            raise DataError(f"out of memory while loading {where}. {LESS_MEMORY}") from error

    def _sample(self, epoch: int, anchor: int) -> Sample:
        rows = list(self.pairing.draw(self.table, anchor, keyed_generator(self.seed, epoch, anchor, PAIRING_STREAM)))
        replaced: list[tuple[int, int, str]] = []
        used: dict[int, tuple[int, Image.Image]] = {}
        sample = Sample([], [], [], self.pairing.group(self.table, anchor), epoch, replaced, anchor)
        for number, view in enumerate(self.views):
            if view.picture not in used:
                used[view.picture] = self._load(rows, view.picture, anchor, epoch, replaced)
            row, picture = used[view.picture]
            transform = self.transforms[view.transform]
            rng = keyed_generator(self.seed, epoch, anchor, number)
            params = transform.draw(rng, picture.width, picture.height)
            sample.pixels.append(transform.worker(picture, params, view.size))
            sample.params.append(params)
            sample.rows.append(row)
        if self.texts is not None and self.texts.pictures:
            captions = [self.table.texts(row) for row in rows]  # of the pictures that are shown, replaced ones included
            sample.text = self.texts.draw(captions, keyed_generator(self.seed, epoch, anchor, TEXT_STREAM))
            sample.text_rows = [rows[picture] for picture in self.texts.pictures]
        return sample

    def _load(
        self, rows: list[int], place: int, anchor: int, epoch: int, replaced: list[tuple[int, int, str]]
    ) -> tuple[int, Image.Image]:
        """Row and picture for `rows[place]`, which becomes another row if it is broken."""
        row = int(rows[place])
        picture, reason = self._try(row)
        if picture is not None:
            return row, picture
        candidates = self._candidates(row, [int(other) for other in rows if other != row], anchor, epoch)
        for other in candidates:
            picture, _ = self._try(other)
            if picture is not None:
                replaced.append((row, other, reason))
                rows[place] = other
                return other, picture
        raise DataError(
            f"{self.table.name}: {shown(self.table.store.locate(row))} cannot be read ({reason}), "
            f"and neither could {len(candidates)} pictures tried in its place"
        )

    def _candidates(self, row: int, drawn: list[int], anchor: int, epoch: int) -> list[int]:
        """Rows to try in place of `row`, in order, each once."""
        rng = keyed_generator(self.seed, epoch, anchor, REPLACEMENT_STREAM + row)
        siblings = list(self.pairing.substitutes(self.table, anchor, drawn))
        shuffled = [int(siblings[i]) for i in rng.permutation(len(siblings))]
        ordered = [other for other in shuffled if other not in drawn] + drawn
        ordered += [int(other) for other in rng.integers(0, len(self.table), MAX_ATTEMPTS)]
        return [other for other in dict.fromkeys(ordered) if other != row]

    def _try(self, row: int) -> tuple[Image.Image | None, str]:
        """The picture, or None and why it cannot be read."""
        self.in_hand.take(row)
        try:
            return self._cache.get(self.table, row), ""
        except (PictureError, OSError, ValueError) as error:
            return None, reason_of(error)


class Collate:
    """Puts samples into a `Batch` (view-major); picklable, so that workers can build it.

    Args:
        views: V views.
        transforms: by name.
        labels: class of each row of the table, or None.
        chunk: anchors of a piece when the backbone sees the batch in pieces; 0: the whole.
        captions: the table, whose captions' rows and stored features go with texts; None without text.
        features: stored features of the table's captions [captions, D]; None without them.
    """

    def __init__(
        self,
        views: Sequence[View],
        transforms: Mapping[str, Transform],
        labels: np.ndarray[Any, Any] | None,
        chunk: int = 0,
        captions: Table | None = None,
        features: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.captions = captions
        self.features = features
        self.chunk = chunk
        self.views = list(views)
        self.transforms = dict(transforms)
        self.labels = labels

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        rows = torch.tensor([sample.rows for sample in samples], dtype=torch.long).T.contiguous()
        groups = torch.tensor([sample.group for sample in samples], dtype=torch.long)
        step = self.chunk or max(1, len(samples))
        return Batch(
            views=[self._stack([sample.pixels[v] for sample in samples]) for v in range(len(self.views))],
            row=rows,
            group=groups.expand(len(self.views), -1).contiguous(),
            label=self._label(rows),
            params=[
                Shipped(self.transforms[view.transform].collate([s.params[v] for s in samples[start : start + step]]))
                for v, view in enumerate(self.views)
                for start in range(0, max(1, len(samples)), step)
            ],
            chunk=self.chunk,
            replaced=[item for sample in samples for item in sample.replaced],
            epoch=samples[0].epoch,
            keys=torch.tensor([(sample.epoch, sample.anchor) for sample in samples], dtype=torch.long).T.contiguous(),
            **self._text(samples),
        )

    def _text(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        if self.captions is None:
            return {}
        extra: dict[str, Tensor] = {}
        if samples[0].text is not None:
            rows = torch.tensor([sample.text_rows for sample in samples], dtype=torch.long).T.contiguous()
            groups = [[self.captions.caption_row(row) for row in sample.text_rows] for sample in samples]
            extra = {
                "text": torch.from_numpy(np.stack([sample.text for sample in samples], axis=1)),
                "text_row": rows,
                "text_group": torch.tensor(groups, dtype=torch.long).T.contiguous(),
            }
        if self.features is not None:
            first = [self.captions.caption_row(sample.rows[0]) for sample in samples]
            extra["caption_features"] = torch.from_numpy(np.asarray(self.features[first], dtype=np.float32))
        return extra

    def _label(self, rows: Tensor) -> Tensor:
        if self.labels is None:
            return torch.full_like(rows, -1)
        return torch.from_numpy(self.labels[rows.numpy()].astype(np.int64))

    @staticmethod
    def _stack(pixels: list[Any]) -> Tensor:
        return torch.from_numpy(np.stack(pixels)) if isinstance(pixels[0], np.ndarray) else torch.stack(pixels)
