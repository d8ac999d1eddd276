"""Lightning's trainer for a run."""

from __future__ import annotations

import logging
import warnings

import pytorch_lightning as pl
import torch

from lgrep.callbacks.checkpointing import Best, RunCheckpoint
from lgrep.callbacks.cost import CostLedger
from lgrep.callbacks.non_finite import NonFiniteGuard
from lgrep.callbacks.skipped import SkippedPictures
from lgrep.callbacks.stopping import StopRequest
from lgrep.config.spec import build
from lgrep.loggers import MetricsFile
from lgrep.training.folder import RunFolder
from lgrep.training.resolve import Resolved


def build_trainer(resolved: Resolved, folder: RunFolder, total_steps: int, stop: StopRequest) -> pl.Trainer:
    """Lightning's trainer with the run's loggers and callbacks; `stop` ends the run between two steps."""
    config = resolved.config
    run_dir = str(folder.path)
    loggers = [build(node, run_dir=run_dir) for node in config.logger.values() if node is not None]
    callbacks: list[pl.Callback] = [SkippedPictures(run_dir, config.loader.max_skip_share)]  # the bar shows its count
    callbacks += [
        build(node, run_dir=run_dir, seed=config.seed) for node in config.callbacks.values() if node is not None
    ]
    if config.trainer.non_finite != "ignore":
        callbacks.append(NonFiniteGuard(run_dir, config.trainer.non_finite))
    saving = config.checkpoint
    best = None if saving.best is None else Best(saving.best, saving.best_mode)
    saver = RunCheckpoint(run_dir, saving.every_n_steps, saving.keep, stop, best, config.trainer.requeue)
    callbacks += [CostLedger(run_dir), saver]
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=config.trainer.strategy,
        precision=config.trainer.precision,
        max_steps=total_steps,
        max_epochs=-1,
        logger=[MetricsFile(run_dir), *loggers],
        callbacks=callbacks,
        log_every_n_steps=config.trainer.log_every_n_steps,
        deterministic=config.deterministic,
        enable_progress_bar=any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.trainer.gradient_clip_val,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=run_dir,
        plugins=[saver.writer],
    )
    stop.own_signals(trainer)
    if hasattr(trainer.strategy, "_timeout"):  # strategies chosen by name take Lightning's
        trainer.strategy._timeout = stop.timeout
    return trainer


def quiet_lightning() -> None:
    """Leaves out Lightning's notes on devices and tips."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)


def quieten() -> None:
    """Leaves out warnings of Lightning about choices that are made on purpose here."""
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*`max_epochs` was not set.*")
    # a ViT hands out a slice of its tokens; nothing changes features in place
    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module.*returned a view tensor.*")
