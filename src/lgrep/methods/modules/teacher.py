"""A teacher that follows its student by an exponential moving average."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A copy of some modules whose parameters follow theirs: theta_t <- m theta_t + (1 - m) theta_s.

    It takes no gradient. Buffers, such as BatchNorm's running statistics, are the teacher's own: it runs in training
    mode like its student.

    Args:
        parts: the student's modules by name; copied as they are now and not kept.

    >>> student = nn.Linear(2, 2)
    >>> teacher = Teacher(layer=student)
    >>> teacher.follow(0.9, layer=student)
    >>> teacher["layer"].weight.requires_grad, bool((teacher["layer"].weight == student.weight).all())
    (False, True)
    """

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items()})
        self.parts.requires_grad_(False)

    def __getitem__(self, name: str) -> nn.Module:
        return self.parts[name]

    @torch.no_grad()
    def follow(self, momentum: float, **parts: nn.Module) -> None:
        """One step towards the student.

        Args:
            momentum: m in [0, 1].
            parts: the student's modules, under the names that they were copied by.
        """
        own: list[Tensor] = [parameter for name in parts for parameter in self.parts[name].parameters()]
        theirs: list[Tensor] = [parameter for part in parts.values() for parameter in part.parameters()]
        torch._foreach_lerp_(own, theirs, 1.0 - momentum)


def cosine_momentum(base: float, progress: float, final: float = 1.0) -> float:
    """Momentum that rises from `base` to `final` along half a cosine over a run (BYOL, https://arxiv.org/abs/2006.07733, eq. 3).

    >>> cosine_momentum(0.996, 0.0), cosine_momentum(0.996, 1.0)
    (0.996, 1.0)
    """
    return final - (final - base) * (math.cos(math.pi * progress) + 1.0) / 2.0


def warmed_up(first: float, last: float, share: float, progress: float) -> float:
    """A value that rises linearly from `first` to `last` over the first `share` of a run.

    >>> warmed_up(0.0, 1.0, 0.5, 0.25), warmed_up(0.04, 0.07, 0.0, 0.0)
    (0.5, 0.07)
    """
    return last if progress >= share else first + (last - first) * progress / share
