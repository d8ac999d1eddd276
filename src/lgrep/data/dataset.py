"""From a sample key to rendered views: what a data-loading worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lgrep.data.batch import Batch, Shipped
from lgrep.data.cache import PictureCache
from lgrep.data.decoding import SCALES, Decoded
from lgrep.data.failures import LESS_MEMORY, InHand
from lgrep.data.notices import reason_of, shown
from lgrep.data.pairings import Pairing, Relations
from lgrep.data.pictures import PictureError
from lgrep.data.randomness import PAIRING_STREAM, REPLACEMENT_STREAM, TEXT_STREAM, keyed_generator
from lgrep.data.samplers import SampleKey
from lgrep.data.stacking import stack_views
from lgrep.data.table import Table, stored_features
from lgrep.data.text import TextViews
from lgrep.data.transforms import Params, Transform, finish_view
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


@dataclass
class _Shown:
    """A picture, and what was drawn for the views that show it, by their number."""

    row: int
    picture: Decoded
    drawn: dict[int, Params]

    @cached_property
    def image(self) -> Image.Image:
        return Image.fromarray(self.picture.pixels)


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
        cache_bytes: of decoded pictures that all loading processes keep together.
        texts: makes the text views; None: no text.
        scaled: decode JPEG files at 1/2, 1/4 or 1/8 of their size where every crop still has its view's pixels.
        finished: views are augmented and normalised here, float32, instead of on the training device.
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
        scaled: bool = False,
        finished: bool = False,
    ) -> None:
        self.table = table
        self.pairing = pairing
        self.views = list(views)
        self.transforms = dict(transforms)
        self.seed = seed
        self.texts = texts
        self.scaled = scaled
        self.finished = finished
        self.in_hand = InHand()
        self._cache = PictureCache(cache_bytes, len(table))

    def __getitem__(self, key: SampleKey) -> Sample:
        try:
            return self._sample(*key)
        except MemoryError as error:
            where = shown(self.table.store.locate(self.in_hand.row()))
            raise DataError(f"out of memory while loading {where}. {LESS_MEMORY}") from error

    def _sample(self, epoch: int, anchor: int) -> Sample:
        rows = list(self.pairing.draw(self.table, anchor, keyed_generator(self.seed, epoch, anchor, PAIRING_STREAM)))
        replaced: list[tuple[int, int, str]] = []
        shown: dict[int, _Shown] = {}
        sample = Sample([], [], [], self.pairing.group(self.table, anchor), epoch, replaced, anchor)
        for number, view in enumerate(self.views):
            if view.picture not in shown:
                shown[view.picture] = self._load(rows, view.picture, anchor, epoch, replaced)
            source = shown[view.picture]
            sample.pixels.append(self._render(source, number))
            sample.params.append(source.drawn[number])
            sample.rows.append(source.row)
        if self.texts is not None and self.texts.pictures:
            captions = [self.table.texts(row) for row in rows]  # of the pictures that are shown, replaced ones included
            sample.text = self.texts.draw(captions, keyed_generator(self.seed, epoch, anchor, TEXT_STREAM))
            sample.text_rows = [rows[picture] for picture in self.texts.pictures]
        return sample

    def _render(self, source: _Shown, number: int) -> np.ndarray[Any, Any]:
        view, picture, params = self.views[number], source.picture, source.drawn[number]
        transform: Any = self.transforms[view.transform]
        crop = params
        if picture.scale != 1:
            height, width, _ = picture.pixels.shape
            crop = transform.reduced(params, picture.scale, width, height)
        takes_arrays = getattr(transform, "takes_arrays", False)
        pixels = transform.worker(picture.pixels if takes_arrays else source.image, crop, view.size)
        return finish_view(transform, pixels, params) if self.finished else pixels

    def _load(
        self, rows: list[int], place: int, anchor: int, epoch: int, replaced: list[tuple[int, int, str]]
    ) -> _Shown:
        """The picture of `rows[place]`, which becomes another row if it is broken."""
        row = int(rows[place])
        source, reason = self._try(row, place, anchor, epoch)
        if source is not None:
            return source
        candidates = self._candidates(row, [int(other) for other in rows if other != row], anchor, epoch)
        for other in candidates:
            source, _ = self._try(other, place, anchor, epoch)
            if source is not None:
                replaced.append((row, other, reason))
                rows[place] = other
                return source
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

    def _try(self, row: int, place: int, anchor: int, epoch: int) -> tuple[_Shown | None, str]:
        """The picture with its views' parameters, or None and why it cannot be read."""
        self.in_hand.take(row)
        drawn: dict[int, Params] = {}

        def draw(width: int, height: int) -> int:
            """Draws before anything is decoded; the scale at which to decode."""
            for number, view in enumerate(self.views):
                if view.picture == place:
                    rng = keyed_generator(self.seed, epoch, anchor, number)
                    drawn[number] = self.transforms[view.transform].draw(rng, width, height)
            return self._scale(drawn)

        try:
            picture = self._cache.get(self.table, row, draw)
        except (PictureError, OSError, ValueError) as error:
            return None, reason_of(error)
        if not drawn:
            draw(picture.width, picture.height)
        return _Shown(row, picture, drawn), ""

    def _scale(self, drawn: Mapping[int, Params]) -> int:
        """By what the picture's sides may be divided for all of these views."""
        if not self.scaled:
            return 1
        room = []
        for number, params in drawn.items():
            view = self.views[number]
            reducible = getattr(self.transforms[view.transform], "reducible", None)
            room.append(1.0 if reducible is None else reducible(params, view.size))
        return next((scale for scale in SCALES if scale <= min(room)), 1)


class Collate:
    """Puts samples into a `Batch` (view-major); picklable, so that workers can build it.

    Args:
        views: V views.
        transforms: by name.
        table: the pictures; classes, captions' rows and stored features are looked up in it, never copied.
        chunk: anchors of a piece when the backbone sees the batch in pieces; 0: the whole.
        features: column of the captions with stored features; None: not used.
        relations: what pictures of different anchors are to each other (`lgrep.data.pairings.relations_of`).
    """

    def __init__(
        self,
        views: Sequence[View],
        transforms: Mapping[str, Transform],
        table: Table,
        chunk: int = 0,
        features: str | None = None,
        relations: Relations | None = None,
    ) -> None:
        self.table = table
        self.relations = relations
        self.features = features
        self.chunk = chunk
        self.views = list(views)
        self.transforms = dict(transforms)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        rows = torch.tensor([sample.rows for sample in samples], dtype=torch.long).T.contiguous()
        groups = torch.tensor([sample.group for sample in samples], dtype=torch.long)
        step = self.chunk or max(1, len(samples))
        return Batch(
            views=[stack_views([sample.pixels[v] for sample in samples]) for v in range(len(self.views))],
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
            **self._related(samples, rows),
        )

    def _related(self, samples: Sequence[Sample], rows: Tensor) -> dict[str, Any]:
        """`positives` and `ignore` of the batch, as far as there are any."""
        if self.relations is None:
            return {}
        positives, ignore = self.relations(np.array([sample.anchor for sample in samples]), rows.numpy())
        found: dict[str, Any] = {}
        if positives is not None:
            found["positives"] = tuple(torch.from_numpy(part) for part in positives)
        if ignore is not None:
            found["ignore"] = torch.from_numpy(ignore)
        return found

    def _text(self, samples: Sequence[Sample]) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if samples[0].text is not None:
            rows = torch.tensor([sample.text_rows for sample in samples], dtype=torch.long).T.contiguous()
            groups = [[self.table.caption_row(row) for row in sample.text_rows] for sample in samples]
            extra = {
                "text": torch.from_numpy(np.stack([np.asarray(sample.text) for sample in samples], axis=1)),
                "text_row": rows,
                "text_group": torch.tensor(groups, dtype=torch.long).T.contiguous(),
            }
        if self.features is not None:
            first = [self.table.caption_row(sample.rows[0]) for sample in samples]
            stored = stored_features(self.table, self.features)
            extra["caption_features"] = torch.from_numpy(np.asarray(stored[first], dtype=np.float32))
        return extra

    def _label(self, rows: Tensor) -> Tensor:
        if not self.table.has("label"):
            return torch.full_like(rows, -1)
        return torch.from_numpy(self.table.column("label")[rows.numpy()].astype(np.int64))
