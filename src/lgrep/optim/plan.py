"""How the parameters of a run are updated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lgrep.optim.build import build_optimizer
from lgrep.optim.schedules import cosine, warmup_cosine_scheduler


@dataclass(frozen=True)
class Optimisation:
    """How parameters are updated; the arguments of this package's functions.

    Attributes:
        name: of the optimiser.
        options: its own settings (betas, momentum, ...).
        peak_lr: resolved learning rate at the end of the warm-up.
        weight_decay: of the decayed group.
        decay_exclude: rule for the other group.
        warmup_steps: optimiser steps of the warm-up, possibly a fraction.
        total_steps: optimiser steps of the run.
        start_lr, final_lr: learning rates of the first step and at the end.
        warmup_inclusive: lgssl's reading of the warm-up.
        final_weight_decay: of the decayed group at the end, reached by half a cosine; None: it stays.
    """

    name: str
    options: dict[str, Any]
    peak_lr: float
    weight_decay: float
    decay_exclude: str
    warmup_steps: float
    total_steps: int
    start_lr: float = 0.0
    final_lr: float = 0.0
    warmup_inclusive: bool = False
    final_weight_decay: float | None = None

    def build(self, groups: Iterable[dict[str, Any]]) -> tuple[Optimizer, LRScheduler]:
        """The optimiser of these groups, and the schedule of its learning rate, one step per optimiser step."""
        optimizer = build_optimizer(self.name, groups, self.peak_lr, **self.options)
        schedule = warmup_cosine_scheduler(
            optimizer, self.warmup_steps, self.total_steps, self.final_lr, self.start_lr, self.warmup_inclusive
        )
        return optimizer, schedule

    def set_weight_decay(self, optimizer: Optimizer, step: int) -> None:
        """Gives the decayed group the weight decay of this step, if it changes during the run."""
        if self.final_weight_decay is None:
            return
        decay = cosine(step, self.total_steps, self.weight_decay, self.final_weight_decay)
        for group in optimizer.param_groups:
            if group["name"] == "decay":
                group["weight_decay"] = decay
