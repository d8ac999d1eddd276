"""Plots that a run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from lgrep.callbacks.curves import draw_curves, read_metrics
from lgrep.callbacks.features import has_probe, probe_features
from lgrep.callbacks.periodic import publish_picture
from lgrep.callbacks.sheets import GREEN, INK, RED, Cell, Row, draw_sheet, save_png


class RunPlots(pl.Callback):
    """Writes `plots/curves.png` and `plots/neighbours.png` when training ends.

    The curves come from `metrics.csv` in the run folder. The neighbours are the gallery pictures whose
    features are nearest (cosine) to some probe queries of different classes, framed green where the
    class is right and red where it is wrong.

    Args:
        run_dir: folder of the run.
        queries: probe queries shown, one row each.
        neighbours: gallery pictures shown for each.
        query_seed: which queries are drawn; not the seed of the run, so that runs show the same queries.
    """

    def __init__(
        self, run_dir: str, queries: PositiveInt = 8, neighbours: PositiveInt = 6, query_seed: int = 0
    ) -> None:
        self.run_dir = Path(run_dir)
        self.queries = queries
        self.neighbours = neighbours
        self.query_seed = query_seed
        self._probed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._probed = has_probe(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._probed:
            # every rank embeds (a sharded backbone needs all of them); one draws
            features = [probe_features(trainer, pl_module, part) for part in ("gallery", "queries")]
            if trainer.is_global_zero:
                path = self.run_dir / "plots" / "neighbours.png"
                save_png(self._draw_neighbours(trainer, *features), path)
                publish_picture(trainer, "neighbours", path)
        if trainer.is_global_zero:
            self._write_curves(trainer)

    def _write_curves(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        metrics = self.run_dir / "metrics.csv"
        if metrics.is_file():
            path = self.run_dir / "plots" / "curves.png"
            draw_curves(read_metrics(metrics), path, f"{self.run_dir.name}: {trainer.global_step:,} steps")
            publish_picture(trainer, "curves", path)

    def _draw_neighbours(self, trainer: pl.Trainer, gallery: Tensor, queries: Tensor) -> Any:
        probe = trainer.datamodule.probe  # type: ignore[attr-defined]
        names, gallery_labels = probe.class_names, probe.gallery_labels.tolist()
        picked = one_per_class(probe.query_labels.cpu(), self.queries, self.query_seed)
        cosines = F.normalize(queries[picked], dim=1) @ F.normalize(gallery, dim=1).T
        nearest = cosines.topk(min(self.neighbours, len(gallery)), dim=1)
        rows, hits = [], 0
        for query, indices, similarities in zip(picked, nearest.indices.tolist(), nearest.values.tolist(), strict=True):
            label = int(probe.query_labels[query])
            cells = [Cell(probe.queries[query], "", INK)]
            for index, cosine in zip(indices, similarities, strict=True):
                right = gallery_labels[index] == label
                caption = f"{cosine:.2f} {names[gallery_labels[index]]}"
                cells.append(Cell(probe.gallery[index], caption, GREEN if right else RED))
            found = sum(gallery_labels[index] == label for index in indices)
            hits += found
            rows.append(Row(names[label], cells, f"{found} of {len(indices)} neighbours are of this class"))
        columns = ["query", *(f"neighbour {number + 1}" for number in range(nearest.indices.shape[1]))]
        about = (
            f"{hits} of {nearest.indices.numel()} are of the query's class (green); cosine of backbone features below"
        )
        return draw_sheet(f"Nearest gallery pictures at step {trainer.global_step:,}", about, columns, rows)


def one_per_class(labels: Tensor, count: int, seed: int) -> list[int]:
    """Positions of `count` samples drawn from different classes (then from any), in order of their label.

    Args:
        labels: Long [M].
        count: at most M positions are returned.
        seed: of the draw; the global random state is not used.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    first: dict[int, int] = {}
    for position in order:
        first.setdefault(int(labels[position]), position)
    chosen = list(first.values())
    chosen = (chosen + [position for position in order if position not in set(chosen)])[:count]
    return sorted(chosen, key=lambda position: (int(labels[position]), position))
