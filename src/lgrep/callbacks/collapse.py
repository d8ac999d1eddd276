"""Collapse monitor."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import PositiveFloat, PositiveInt
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lgrep.callbacks.periodic import PeriodicCallback, report
from lgrep.evaluation.collapse import isotropic_std, normalised_std, pair_cosines, rankme


class CollapseMonitor(PeriodicCallback):
    """Logs how spread out features and embeddings are, and warns once when they collapse.

    For `what` in `features` (backbone) and `embeddings` (head), of the training batch on this rank:
    `collapse/{what}_std` (0 = collapsed) beside `collapse/{what}_std_isotropic` = 1 / sqrt(D);
    `collapse/{what}_rankme`, the effective rank, at most min(batch, D); `collapse/{what}_cosine_positive` and
    `collapse/{what}_cosine_random`, mean cosines of positive and of all other pairs.

    Args:
        every_n_steps: distance between measurements in optimiser steps; the last step is always measured.
        threshold: warn when the standard deviation is below this share of 1 / sqrt(D); 0.05 means that
            random pairs have a mean cosine above 0.9975.
    """

    def __init__(self, every_n_steps: PositiveInt = 100, threshold: PositiveFloat = 0.05) -> None:
        super().__init__(every_n_steps)
        self.threshold = threshold
        self._warned = False

    @torch.no_grad()
    def act(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        metrics: dict[str, Tensor | float] = {}
        for what in ("features", "embeddings"):
            features = outputs[what]
            metrics[f"collapse/{what}_std"] = normalised_std(features)
            metrics[f"collapse/{what}_std_isotropic"] = isotropic_std(features.shape[1])
            metrics[f"collapse/{what}_rankme"] = rankme(features)
            positive, other = pair_cosines(features, batch.group.flatten())
            metrics[f"collapse/{what}_cosine_positive"] = positive
            metrics[f"collapse/{what}_cosine_random"] = other
        report(trainer, module, metrics)
        if not self._warned:
            self._warn({name: float(value) for name, value in metrics.items()}, trainer.global_step)

    def _warn(self, values: dict[str, float], step: int) -> None:
        for what in ("features", "embeddings"):
            std, isotropic = values[f"collapse/{what}_std"], values[f"collapse/{what}_std_isotropic"]
            share = std / isotropic
            if share < self.threshold:
                self._warned = True
                rank_zero_warn(
                    f"collapse at step {step}: the {what} of different pictures are nearly the same. Their standard "
                    f"deviation is {std:.2e}, {share:.1%} of 1/sqrt(D) = {isotropic:.2e} (warned below "
                    f"{self.threshold:.1%}); the effective rank is {values[f'collapse/{what}_rankme']:.1f}. Try "
                    "a lower learning rate or a longer warm-up, and check that the batch holds different groups."
                )
                return

    def state_dict(self) -> dict[str, Any]:
        return {"warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._warned = bool(state_dict["warned"])
