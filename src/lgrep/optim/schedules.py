"""Learning rates and weight decays as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lgrep.errors import ConfigError


def warmup_cosine(
    step: int,
    warmup_steps: float,
    total_steps: int,
    base_lr: float,
    final_lr: float = 0.0,
    start_lr: float = 0.0,
    warmup_inclusive: bool = False,
) -> float:
    """Linear warm-up, then half a cosine.

    The default is StableRep's rule, whose position in fractional epochs is step / (steps per epoch): the
    first step has `start_lr`, and the peak is reached at `warmup_steps`, which need not be whole.

    lgssl trains with the lightning-bolts schedule: `start_lr=1e-5, final_lr=1e-6, warmup_inclusive=True`. It
    differs only in that the warm-up counts its last step in, rising by (base - start) / (warmup_steps - 1) per
    step, so that step `warmup_steps - 1` and step `warmup_steps` both have `base_lr`.

    Args:
        step: optimiser steps already taken; beyond `total_steps` the rate stays at `final_lr`.
        warmup_steps: 0 <= warmup_steps <= total_steps.
        total_steps: step at which `final_lr` is reached.
        base_lr: peak rate.
        final_lr: rate at the end.
        start_lr: rate of the first step.
        warmup_inclusive: whether the warm-up ends one step earlier.

    Returns:
        The rate for the next optimiser step.

    Raises:
        ConfigError: the warm-up does not fit into the run.

    >>> [round(warmup_cosine(step, 2, 6, base_lr=1.0), 3) for step in range(8)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    _check(warmup_steps, total_steps)
    if step < warmup_steps:
        ramp = warmup_steps - 1 if warmup_inclusive else warmup_steps
        done = min(step / ramp, 1.0) if ramp > 0 else 1.0
        return start_lr + (base_lr - start_lr) * done
    if step >= total_steps:
        return final_lr
    position = (step - warmup_steps) / (total_steps - warmup_steps)
    return final_lr + (base_lr - final_lr) * 0.5 * (1.0 + math.cos(math.pi * position))


def cosine(step: int, total_steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at `total_steps`, as DINO and SynCLR raise the weight decay.

    >>> [round(cosine(step, 4, 0.04, 0.2), 4) for step in range(6)]
    [0.04, 0.0634, 0.12, 0.1766, 0.2, 0.2]
    """
    position = min(step / total_steps, 1.0) if total_steps > 0 else 1.0
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * position))


def warmup_cosine_scheduler(
    optimizer: Optimizer,
    warmup_steps: float,
    total_steps: int,
    final_lr: float = 0.0,
    start_lr: float = 0.0,
    warmup_inclusive: bool = False,
) -> LambdaLR:
    """Applies `warmup_cosine` to every group of `optimizer`, its present rate being the peak.

    Call its `step` once per optimiser step (Lightning: `interval: step`).

    Args:
        optimizer: groups may have different rates; start and end are the same for all.
        warmup_steps: see `warmup_cosine`, also for the rest.
        total_steps: optimiser steps of the whole run.
        final_lr: rate at the end.
        start_lr: rate of the first step.
        warmup_inclusive: whether the warm-up ends one step earlier.

    Raises:
        ConfigError: the warm-up does not fit into the run.
    """
    _check(warmup_steps, total_steps)

    def factor(base_lr: float) -> Callable[[int], float]:
        def relative(step: int) -> float:
            rate = warmup_cosine(step, warmup_steps, total_steps, base_lr, final_lr, start_lr, warmup_inclusive)
            return rate / base_lr if base_lr else 0.0

        return relative

    # a resumed optimiser holds the rate of its last step in `lr`, its peak in `initial_lr`
    peaks = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return LambdaLR(optimizer, [factor(peak) for peak in peaks])


def _check(warmup_steps: float, total_steps: int) -> None:
    if not 0 <= warmup_steps <= total_steps:
        raise ConfigError(
            f"The warm-up of {warmup_steps} steps does not fit into a run of {total_steps} steps; "
            "type a shorter warm-up or a longer duration."
        )
