"""The start screen: what a run is going to do, on one page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from lgrep.data.datamodule import PairDataModule
from lgrep.data.views import describe_views
from lgrep.methods.base import Method
from lgrep.training.acceleration import accumulation_warning
from lgrep.training.augmentation import augments_in_workers
from lgrep.training.resolve import Resolved


def show_start(
    resolved: Resolved, data: PairDataModule, method: Method, folder: Path, resumed: int, world: int
) -> None:
    """Print the resolved settings that people get wrong."""
    config, plan = resolved.config, method.optimisation
    assert plan is not None
    anchors = config.loader.batch_size * config.trainer.accumulate
    pictures = anchors * len(data.views)
    steps_per_epoch = data.batches_per_epoch / config.trainer.accumulate
    grid = Grid(show_header=False, box=None, padding=(0, 2, 0, 0))
    grid.add_row("run", f"{resolved.name}, seed {config.seed} -> {folder}")
    grid.add_row(
        "data",
        f"{data.table.name}: {len(data.table)} pictures, {data.table.num_groups} captions, {len(data.anchors)} anchors",
    )
    grid.add_row(
        "pairing",
        f"{resolved.choices.get('pairing', '')}: {resolved.pairing.pictures} pictures per anchor; views: {describe_views(data.views)}",
    )
    grid.add_row(
        "batch",
        f"{anchors} anchors = {pictures} pictures per step over {world} process(es), {len(data.views) - 1} positives per picture",
    )
    if config.trainer.accumulate > 1:
        grid.add_row("", f"in {config.trainer.accumulate} micro-batches of {config.loader.batch_size} anchors")
    trainable = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    network = sum(parameter.numel() for parameter in method.backbone.parameters())
    grid.add_row(
        "method",
        f"{type(method).__name__} on {method.backbone.name} ({network / 1e6:.2f} M of {trainable / 1e6:.2f} M parameters)",
    )
    grid.add_row(
        "optimiser",
        f"{plan.name}, learning rate {plan.peak_lr:.6g} (base {config.optimizer.base_lr:g}, scaled by {config.optimizer.lr_scaling}), weight decay {plan.weight_decay:g}",
    )
    grid.add_row(
        "schedule",
        f"{plan.total_steps} steps = {plan.total_steps / steps_per_epoch:.1f} epochs of {steps_per_epoch:g} steps, {plan.warmup_steps:g} of them warm-up",
    )
    grid.add_row("loader", f"{data.workers} worker(s) per process")
    grid.add_row("augmentation", augments_in_workers(config)[1])
    if resumed:
        grid.add_row("resume", f"goes on after step {resumed}, at the same place in the data")
    warning = accumulation_warning(method, config.trainer)
    if warning is not None:
        grid.add_row("warning", warning)
    Console(width=140, highlight=False).print(grid)
