"""How long a run and its warm-up are."""

from __future__ import annotations

from omegaconf import OmegaConf

from lgrep.config.compose import group_choices
from lgrep.config.locate import config_folder
from lgrep.data.sources import PublishedSchedule
from lgrep.errors import ConfigError
from lgrep.training.resolve import Resolved


def published_schedule(resolved: Resolved) -> PublishedSchedule | None:
    """The schedule of the chosen data set that `duration=1x` and the like name; None when none is named.

    Raises:
        ConfigError: the data set has no schedule of that name; says which data sets have schedules.
    """
    name = resolved.config.duration.published
    if name is None:
        return None
    schedules: dict[str, PublishedSchedule] = getattr(resolved.source, "schedules", {})
    if name in schedules:
        return schedules[name]
    if schedules:
        raise ConfigError(
            f"duration.published={name}: this data set has the schedules {', '.join(schedules)}. "
            f"Type duration={next(iter(schedules))}"
        )
    raise ConfigError(
        f"duration={name}: no schedule was published for data={resolved.choices.get('data')}; there are schedules for "
        f"{' and '.join(f'data={choice}' for choice in _data_with_schedules())}. "
        "Type duration=epochs duration.epochs=N schedule.warmup_steps=null schedule.warmup_epochs=M"
    )


def run_length(resolved: Resolved, steps_per_epoch: float) -> tuple[int, float]:
    """Optimiser steps of the run and of its warm-up (a fraction of a step is kept).

    What the configuration gives itself goes before a published schedule.

    Raises:
        ConfigError: an unknown published schedule, or a warm-up that is longer than the run.
    """
    duration, schedule = resolved.config.duration, resolved.config.schedule
    published = published_schedule(resolved)
    epochs, warmup_epochs = duration.epochs, schedule.warmup_epochs
    if published is not None:
        epochs = published.epochs if epochs is None else epochs
        if warmup_epochs is None and schedule.warmup_steps is None:
            warmup_epochs = published.warmup_epochs
    total = duration.steps or max(1, round((epochs or 0) * steps_per_epoch))
    warmup: float = (schedule.warmup_steps or 0) if warmup_epochs is None else warmup_epochs * steps_per_epoch
    if warmup > total:
        raise ConfigError(
            f"the warm-up of {warmup:g} steps is longer than the run of {total} steps. "
            f"Type schedule.warmup_steps={total // 10} schedule.warmup_epochs=null"
        )
    return total, warmup


def _data_with_schedules() -> list[str]:
    folder = config_folder() / "data"
    return [
        name
        for name in group_choices("data")
        if OmegaConf.select(OmegaConf.load(folder / f"{name}.yaml"), "schedules", default=None)
    ]
