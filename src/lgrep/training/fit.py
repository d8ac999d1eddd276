"""Building and running one training run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from lgrep.backbones import build_backbone
from lgrep.backbones.norm import convert_batchnorm
from lgrep.callbacks.non_finite import NonFiniteGuard
from lgrep.callbacks.stopping import StopRequest
from lgrep.callbacks.throughput import Throughput
from lgrep.config.spec import build
from lgrep.cost import cost_of_run
from lgrep.data.datamodule import PairDataModule
from lgrep.data.failures import named_failures
from lgrep.data.samplers import check_batch_size, check_shares
from lgrep.data.table import stored_features
from lgrep.errors import DataError
from lgrep.loggers import MetricsFile, Tracker
from lgrep.methods.base import Method
from lgrep.methods.language import LanguageObjective, Modalities
from lgrep.optim import Optimisation, scaled_lr
from lgrep.ranks import rank
from lgrep.records import provenance, weights_hash
from lgrep.training.acceleration import apply_trades
from lgrep.training.augmentation import augments_in_workers
from lgrep.training.folder import RunFolder
from lgrep.training.hardware import check_chunks, check_hardware
from lgrep.training.length import published_schedule, run_length
from lgrep.training.loop import build_trainer, quiet_lightning, quieten
from lgrep.training.lost import forget_failure, lost_processes
from lgrep.training.resolve import Resolved, resolve
from lgrep.training.resuming import check_fit, state_to_resume, step_of
from lgrep.training.screen import show_start


def train(values: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """Run the training that a composed configuration describes.

    A folder that already holds this configuration is continued from its last checkpoint; a finished one
    is left as it is.

    Args:
        values: composed configuration as plain containers.
        choices: chosen file of each configuration group.

    Returns:
        The run's summary (also in `summary.json`), with `run_dir`.
    """
    resolved = resolve(values, choices)
    config = resolved.config
    quiet_lightning()
    # Deterministic mode would fill every new tensor with NaN, which costs time and finds no error here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if config.doctor:
        from lgrep.training.doctor import examine  # builds runs with the functions below

        return examine(resolved)
    fresh = config.resume == "never"
    folder = RunFolder.of(config.paths.runs, resolved.name, resolved.values, fresh, rank=rank())
    finished = folder.summary
    if finished is not None:
        print(f"{folder.path} holds the finished run of this configuration. Type resume=never to run it again.")
        return finished
    data = build_data(resolved)
    method = build_method(resolved, data)
    assert method.optimisation is not None
    if rank() == 0:
        folder.create(resolved.values)
    checkpoint = _state(resolved, folder, method)
    stop = StopRequest(config.trainer.timeout_s)
    trainer = build_trainer(resolved, folder, method.optimisation.total_steps, stop)
    check_shares(data.batch_size, trainer.world_size)  # here, where there is one process yet to say it
    resumed = step_of(checkpoint)
    for logger in trainer.loggers:
        if isinstance(logger, (MetricsFile, Tracker)):
            logger.cut_back(resumed)
    if trainer.is_global_zero:
        show_start(resolved, data, method, folder.path, resumed, trainer.world_size)
    with warnings.catch_warnings(), stop, lost_processes(folder, config.trainer.timeout_s), named_failures(data):
        quieten()
        try:
            trainer.fit(method, data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:  # how Lightning answers a KeyboardInterrupt: here the second Ctrl-C
            raise KeyboardInterrupt from error
    summary = _summary(resolved, trainer, method, data, folder)
    if trainer.is_global_zero:  # the others do not read the folder: this process may still be writing there
        summary["cost"] = cost_of_run(
            folder.path,
            method.budget_per_step,
            (len(data.views), len({view.picture for view in data.views})),
            config.data,
            data.replaced_count,
        )
        folder.write_summary(summary)
    return summary


def _state(resolved: Resolved, folder: RunFolder, method: Method) -> Path | None:
    """The state to go on from; what an earlier start left behind is said and removed."""
    assert method.optimisation is not None
    state, problems = state_to_resume(folder, resolved.config.resume)
    check_fit(state, method, method.optimisation.total_steps)
    if rank() == 0:
        forget_failure(folder)
        for problem in problems:
            print(f"{problem}; going on from {state or 'the beginning'}")
    return state


def build_data(resolved: Resolved) -> PairDataModule:
    """The data module of a configuration."""
    loader = resolved.config.loader
    return PairDataModule(
        resolved.source,
        resolved.pairing,
        resolved.views,
        resolved.transforms,
        loader.batch_size,
        resolved.config.seed,
        loader.workers,
        loader.cache_mb * 2**20,
        torch.channels_last if resolved.config.trainer.channels_last else torch.contiguous_format,
        resolved.config.trainer.chunk_size,
        resolved.texts,
        loader.order,
        loader.decode == "scaled",
        augments_in_workers(resolved.config)[0],
    )


def build_method(resolved: Resolved, data: PairDataModule) -> Method:
    """The method with fresh weights; the same seed gives the same ones everywhere."""
    config = resolved.config
    # The first of all, since it opens the data: what is missing is said before anything heavy is made.
    plan = plan_optimisation(resolved, data)
    check_hardware(config.trainer)
    torch.manual_seed(config.seed)
    size = config.backbone.image_size or data.views[0].size
    several = len({view.size for view in data.views}) > 1
    options = config.backbone.options
    backbone = build_backbone(config.backbone.name, size, config.backbone.pretrained, several, **options)
    check_chunks(config.trainer, backbone)
    if resolved.method.needs_labels:
        _check_labels(data)
    method: Method = build(config.method, backbone=backbone, num_classes=data.num_classes)
    if config.language:
        method.language = build_language(resolved, data, method)
    if config.trainer.sync_batchnorm:
        convert_batchnorm(method)
    if config.trainer.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.optimisation = plan
    method.seed = config.seed
    method.check_finite = config.debug
    method.budget_per_step = budget_per_step(method, data, config.trainer.accumulate)
    transform = data.transforms[data.views[0].transform]
    method.image = {"size": data.views[0].size, "mean": list(transform.mean), "std": list(transform.std)}
    apply_trades(method, config.trainer)
    return method


def _check_labels(data: PairDataModule) -> None:
    """Refuses pictures without a class for a method that learns from classes."""
    table = data.table
    without = int((table.column("label") < 0).sum()) if table.has("label") else len(table)
    if without:
        raise DataError(
            f"{without:,} of {len(table):,} pictures of {table.name} have no class, and this method learns from classes. "
            "Type data.where.label.min=0 to leave them out, or another method such as method=simclr"
        )


def build_language(resolved: Resolved, data: PairDataModule, method: Method) -> LanguageObjective:
    """The language objective of a method that is otherwise complete."""
    texts = resolved.texts
    assert texts is not None
    caption_dim = stored_features(data.table, texts.features).shape[1] if texts.features is not None else 0
    modalities = Modalities(
        image_dim=method.backbone.dim,
        embedding_dim=getattr(getattr(method, "projector", None), "out_dim", 0),
        vocab_size=texts.tokenizer.vocab_size,
        context_length=texts.tokenizer.context_length,
        caption_dim=caption_dim,
        texts=len(texts.pictures),
        tokenizer=texts.tokenizer.name,
        stored=f"{data.table.name}/{texts.features}" if texts.features is not None else "",
    )
    objective: LanguageObjective = build(resolved.config.language, modalities=modalities)
    objective.attach(method.backbone)
    return objective


def budget_per_step(method: Method, data: PairDataModule, accumulate: int = 1) -> dict[str, int]:
    """Pictures and FLOPs of one optimiser step; FLOPs of the backbone, a backward pass counted as two forward ones."""
    flops = 0
    for size in {view.size for view in data.views}:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            training = method.backbone.training
            method.backbone.eval()(torch.zeros(1, 3, size, size))
            method.backbone.train(training)
        flops += 3 * counter.get_total_flops() * sum(view.size == size for view in data.views)
    anchors = data.batch_size * accumulate
    return {"pictures": anchors * len(data.views), "flops": anchors * flops}


def plan_optimisation(resolved: Resolved, data: PairDataModule) -> Optimisation:
    """Learning rate, steps and warm-up from the configuration and the size of the data."""
    config = resolved.config
    optimizer, schedule = config.optimizer, config.schedule
    published_schedule(resolved)  # an unknown one is refused before the data are opened
    check_batch_size(config.loader.batch_size, len(data.anchors))
    accumulate = config.trainer.accumulate
    total, warmup = run_length(resolved, data.batches_per_epoch / accumulate)
    anchors = config.loader.batch_size * accumulate
    counted = {"pictures": anchors * len(data.views), "anchors": anchors}
    options: dict[str, Any] = {"betas": optimizer.betas, "eps": optimizer.eps, "fused": True}
    if optimizer.name == "sgd":
        options = {"momentum": optimizer.momentum, "fused": True}
    if optimizer.name == "lars":
        options = {"momentum": optimizer.momentum, "trust_coeff": optimizer.trust_coefficient}
    return Optimisation(
        name=optimizer.name,
        options=options,
        peak_lr=optimizer.base_lr
        if optimizer.lr_scaling == "none"
        else scaled_lr(optimizer.base_lr, counted[optimizer.lr_scaling], optimizer.reference_batch),
        weight_decay=optimizer.weight_decay,
        decay_exclude=optimizer.decay_exclude,
        final_weight_decay=optimizer.final_weight_decay,
        warmup_steps=warmup,
        total_steps=total,
        start_lr=schedule.start_lr,
        final_lr=schedule.final_lr,
        warmup_inclusive=schedule.warmup_inclusive,
    )


def _summary(
    resolved: Resolved, trainer: pl.Trainer, method: Method, data: PairDataModule, folder: RunFolder
) -> dict[str, Any]:
    """What a finished run is remembered by; every figure of a report can be traced to it."""
    plan = method.optimisation
    assert plan is not None
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    speed = next((callback.summary() for callback in callbacks if isinstance(callback, Throughput)), {})
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {
        "run_dir": str(folder.path),
        "name": resolved.name,
        "finished": True,
        "budget": {
            "steps": trainer.global_step,
            **{name: value * trainer.global_step for name, value in method.budget_per_step.items()},
        },
        "epochs": trainer.global_step * trainer.accumulate_grad_batches / data.batches_per_epoch,
        "peak_lr": plan.peak_lr,
        "metrics": metrics,
        "speed": speed,
        "replaced_pictures": data.replaced_count,
        "skipped_steps": next((callback.skipped for callback in callbacks if isinstance(callback, NonFiniteGuard)), []),
        "weights_hash": weights_hash(method.backbone),
        "data_hash": data.table.content_hash,
        "seed": resolved.config.seed,
        "choices": resolved.choices,
        **provenance(),
    }
