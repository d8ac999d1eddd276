"""Optimisers, weight-decay groups, learning-rate rules and schedules."""

from lgrep.optim.build import build_optimizer
from lgrep.optim.gradients import clip_gradients, gradient_norm
from lgrep.optim.groups import parameter_groups
from lgrep.optim.plan import Optimisation
from lgrep.optim.scaling import scaled_lr
from lgrep.optim.schedules import cosine, warmup_cosine, warmup_cosine_scheduler

__all__ = [
    "Optimisation",
    "build_optimizer",
    "clip_gradients",
    "cosine",
    "gradient_norm",
    "parameter_groups",
    "scaled_lr",
    "warmup_cosine",
    "warmup_cosine_scheduler",
]
