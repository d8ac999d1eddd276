"""Online nearest-neighbour probe."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pydantic import PositiveInt

from lgrep.callbacks.features import forget_features, has_probe, probe_features
from lgrep.callbacks.periodic import PeriodicCallback, report
from lgrep.evaluation.knn import knn_predict


class OnlineKNN(PeriodicCallback):
    """Logs `probe/knn_top1`: accuracy of a k-nearest-neighbour vote on the probe queries.

    The backbone embeds the probe pictures in evaluation mode; its state and the random state are left
    as they were. Does nothing when the data has no labelled probe.

    Args:
        every_n_steps: distance between evaluations in optimiser steps; the last step is always evaluated.
        k: voting neighbours (at most the size of the gallery is used).
    """

    def __init__(self, every_n_steps: PositiveInt = 100, k: PositiveInt = 20) -> None:
        super().__init__(every_n_steps)
        self.k = k
        self._probed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        forget_features(trainer)
        self._probed = has_probe(trainer)

    def act(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        if not self._probed:
            return
        probe = trainer.datamodule.probe  # type: ignore[attr-defined]
        gallery, queries = (probe_features(trainer, module, part) for part in ("gallery", "queries"))
        labels = probe.gallery_labels.to(gallery.device)
        predicted = knn_predict(gallery, labels, queries, min(self.k, len(labels)), len(probe.class_names))
        correct = predicted == probe.query_labels.to(predicted.device)
        report(trainer, module, {"probe/knn_top1": correct.float().mean()})
