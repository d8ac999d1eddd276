"""Optimisers, weight-decay groups, learning-rate rules and schedules."""

from lgrep.optim.build import build_optimizer
from lgrep.optim.groups import parameter_groups
from lgrep.optim.scaling import scaled_lr
from lgrep.optim.schedules import warmup_cosine, warmup_cosine_scheduler

__all__ = ["build_optimizer", "parameter_groups", "scaled_lr", "warmup_cosine", "warmup_cosine_scheduler"]
