"""Contact sheet of the positives that training starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor

from lgrep.callbacks.periodic import publish_picture
from lgrep.callbacks.sheets import Cell, Row, as_uint8, draw_sheet, save_png
from lgrep.data.batch import Batch


class ContactSheet(pl.Callback):
    """Writes `plots/positives_step0.png`: augmented views of some anchors with their captions.

    Drawn from the first batch, before it is trained on, so that a wrong pairing or augmentation is seen
    at once. A resumed run writes it only if it is missing.

    Args:
        run_dir: folder of the run.
        groups: anchors shown, one row each.
        max_views: views shown of each anchor.
    """

    def __init__(self, run_dir: str, groups: PositiveInt = 8, max_views: PositiveInt = 12) -> None:
        self.path = Path(run_dir) / "plots" / "positives_step0.png"
        self.groups = groups
        self.max_views = max_views
        self._done = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._done:
            return
        self._done = True
        if not trainer.is_global_zero or (self.path.is_file() and trainer.global_step > 0):
            return
        views = [_pictures(trainer, batch.whole(view)) for view in range(min(batch.num_views, self.max_views))]
        save_png(self._draw(trainer, batch, views), self.path)
        publish_picture(trainer, "positives", self.path)

    def _draw(self, trainer: pl.Trainer, batch: Batch, views: list[Tensor]) -> Any:
        table = getattr(getattr(trainer, "datamodule", None), "table", None)
        row, group = batch.row.cpu(), batch.group.cpu()
        rows = []
        for anchor in distinct(group[0], self.groups):
            pictures = row[: len(views), anchor].tolist()
            names = [_name(table, picture) for picture in pictures]
            caption = batch.caption[anchor] if batch.caption else ""
            if not caption and table is not None:
                caption = table.caption(pictures[0])
            same = len(set(names)) == 1
            cells = [Cell(view[anchor], "" if same else name) for view, name in zip(views, names, strict=True)]
            marks = "" if bool((group[:, anchor] == group[0, anchor]).all()) else " · views of different groups"
            rows.append(
                Row(caption or "(no caption)", cells, (names[0] if same else f"{len(set(names))} pictures") + marks)
            )
        columns = [f"view {number} · {view.shape[-1]} px" for number, view in enumerate(views)]
        shown = "" if len(views) == batch.num_views else f" (the first {len(views)} shown)"
        about = f"{batch.num_anchors} anchors x {batch.num_views} views{shown} on this rank; each row is one anchor"
        return draw_sheet(f"Positives at step {trainer.global_step}", about, columns, rows)


def _name(table: Any, row: int) -> str:
    """Short name of a picture: its identity without the file type."""
    return os.path.splitext(table.identity(row))[0] if table is not None else f"row {row}"


def distinct(group: Tensor, count: int) -> list[int]:
    """Positions of the first `count` different groups, in the order of the batch.

    >>> distinct(torch.tensor([4, 4, 9, 1]), 2)
    [0, 2]
    """
    first: dict[int, int] = {}
    for position, number in enumerate(group.tolist()):
        first.setdefault(number, position)
    return list(first.values())[:count]


def _pictures(trainer: pl.Trainer, view: Tensor) -> Tensor:
    """The view as uint8 [B, 3, H, W] on the CPU, its normalisation undone."""
    if view.dtype == torch.uint8:
        return view.cpu()
    blank = torch.zeros(1, *view.shape[1:], dtype=torch.uint8, device=view.device)
    # the normalisation is affine: what it makes of black and white tells its inverse
    normalise = trainer.datamodule.normalise  # type: ignore[attr-defined]
    black, white = (normalise(picture).mean(dim=(2, 3), keepdim=True) for picture in (blank, blank + 255))
    return as_uint8(view, black, white)
