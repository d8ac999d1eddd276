"""The one batch that every pairing produces and every method consumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


class Shipped:
    """Tensors that travel with a batch and that Lightning's precision plugins leave as they are.

    Those cast every floating tensor that they find in a batch to the training precision; augmentation
    parameters must not be rounded to bfloat16.

    Args:
        tensors: by name.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors


@dataclass
class Batch:
    """B anchors seen through V views, view-major.

    A view is one rendering (crop and augmentation) of one picture of each anchor. Row `[v, b]` of every
    label-like tensor describes picture `b` of `views[v]`; flattening them gives the order
    `v * B + b` in which features are concatenated.

    `pin_memory` and `to` act on every tensor. Lightning moves the batch through `to` (a class with that
    method is treated as one object), so a plain nested dataclass is enough.

    Attributes:
        views: V tensors [B, 3, H, W]; uint8 as the workers ship them, float32 and normalised after the
            data module's after-transfer hook. Sizes may differ between views.
        row: Long [V, B], row of the picture in the table.
        group: Long [V, B], equal numbers mark positives: the caption's row for siblings, the anchor's
            picture for self views.
        label: Long [V, B], class of the picture, -1 where there is none.
        params: per view, the tensors that the device augmentation applies (crop boxes, jitter factors,
            ...), as drawn in the worker; leading dimension B except for index lists. In a batch that comes in
            pieces: per view and piece, views first.
        caption: the captions of the anchors' first pictures (strings, not moved), when asked for.
        text: Long [T, B, L], tokens of T text views, padded with the tokeniser's padding; None without text.
        text_row: Long [T, B], row of the picture whose caption each text is.
        text_group: Long [T, B], row of that caption in the table's captions: equal numbers are equal captions.
        caption_features: float [B, D], stored features of the first picture's caption; None without them.
        positives: pairs that are positive beside equal groups: Long [2, E] (flattened view-major places within this
            process's batch, directed: row 0 is the anchor) and float [E] weights; None: there are none.
        ignore: Long [2, E], pairs that are neither positive nor negative; None: there are none.
        masks: bool [V, B, tokens], patches hidden from the backbone; None without masks.
        keys: Long [2, B], epoch and anchor of each sample.
        replaced: what was wrong with pictures that had to be replaced: (row, row used, reason).
        epoch: the epoch that the batch belongs to.
        chunk: anchors of a piece, when the backbone sees the batch in pieces; 0: it sees the whole.
        render: makes piece `number` of view `view` ready for the backbone (set by the data module, when `chunk`);
            `views` then stay uint8.
    """

    views: list[Tensor]
    row: Tensor
    group: Tensor
    label: Tensor
    params: list[Shipped] = field(default_factory=list)
    caption: list[str] = field(default_factory=list)
    replaced: list[tuple[int, int, str]] = field(default_factory=list)
    epoch: int = 0
    text: Tensor | None = None
    text_row: Tensor | None = None
    text_group: Tensor | None = None
    caption_features: Tensor | None = None
    positives: tuple[Tensor, Tensor] | None = None
    ignore: Tensor | None = None
    masks: Tensor | None = None
    keys: Tensor | None = None
    chunk: int = 0
    render: Callable[[Batch, int, int], Tensor] | None = None

    @property
    def num_views(self) -> int:
        """V."""
        return len(self.views)

    @property
    def num_anchors(self) -> int:
        """B on this rank."""
        return int(self.row.shape[1])

    @property
    def num_pieces(self) -> int:
        """Pieces of a view."""
        return -(-self.num_anchors // self.chunk) if self.chunk else 1

    def piece(self, view: int, number: int) -> Tensor:
        """Augmented, normalised pictures of one piece of a view: anchors `number * chunk` and the following."""
        if self.render is None:
            return self.views[view]
        return self.render(self, view, number)

    def whole(self, view: int) -> Tensor:
        """Augmented, normalised pictures of a view."""
        return torch.cat([self.piece(view, number) for number in range(self.num_pieces)])

    def select(self, views: Sequence[int]) -> Batch:
        """The batch of some of the views, in the order given."""
        chosen = list(views)
        if chosen == list(range(self.num_views)):
            return self
        pieces = self.num_pieces
        return replace(
            self,
            views=[self.views[v] for v in chosen],
            row=self.row[chosen],
            group=self.group[chosen],
            label=self.label[chosen],
            params=[self.params[v * pieces + n] for v in chosen for n in range(pieces)] if self.params else [],
            masks=None if self.masks is None else self.masks[chosen],
            render=None if self.render is None else _Renumbered(self.render, self, chosen),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch with every tensor in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Any) -> Batch:
        changed = {entry.name: _map_tensors(getattr(self, entry.name), move) for entry in fields(self)}
        return replace(self, **changed)


class _Renumbered:
    """Renders views of the whole batch for a selection of them."""

    def __init__(self, render: Callable[[Batch, int, int], Tensor], whole: Batch, views: list[int]) -> None:
        self.render, self.whole, self.views = render, whole, views

    def __call__(self, _: Batch, view: int, number: int) -> Tensor:
        return self.render(self.whole, self.views[view], number)


def _map_tensors(value: Any, move: Any) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, Shipped):
        return Shipped({name: move(tensor) for name, tensor in value.tensors.items()})
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (Tensor, Shipped)):
        return type(value)(_map_tensors(item, move) for item in value)
    return value
