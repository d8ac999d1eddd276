"""Fixture that trains the tiny method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from callbacks.tiny import Fit, ListLogger, TinyData, TinyMethod


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Train `TinyMethod`; returns the trainer, its logger at `trainer.loggers[0]`."""

    def run(
        callbacks: list[pl.Callback],
        steps: int = 10,
        data: TinyData | None = None,
        module: pl.LightningModule | None = None,
        checkpoint: Path | None = None,
        **options: Any,
    ) -> pl.Trainer:
        bar = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks)
        settings: dict[str, Any] = {
            "accelerator": "cpu", "devices": 1, "max_steps": steps, "max_epochs": -1, "logger": ListLogger(),
            "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": bar,
            "log_every_n_steps": 1, "default_root_dir": tmp_path, "callbacks": callbacks,
        }  # fmt: skip
        torch.manual_seed(0)
        trainer = pl.Trainer(**{**settings, **options})
        resume = {} if checkpoint is None else {"ckpt_path": checkpoint, "weights_only": True}
        trainer.fit(module or TinyMethod(), datamodule=data or TinyData(), **resume)
        return trainer

    return run
