"""What a guidance-scale sweep compares, and what is typed for each of its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator

from lgrep.errors import ConfigError

Method = Literal["stablerep", "simclr", "clip"]
METHODS: tuple[Method, ...] = ("stablerep", "simclr", "clip")
SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)


class SweepSettings(BaseModel):
    """What is compared.

    Attributes:
        scales: guidance scales.
        methods: each trained on every set and on real drawings, by the experiments METHOD_emoji_synthetic and METHOD_emoji.
        seeds: how many of the training, from 0; the sets have one.
        captions: so many training captions, the same ones in sets and real drawings; None: all.
        images: generated pictures of each caption.
        steps: optimiser steps; None: the recipes'.
        out: folder of everything that is written.
        sets: folder of the sets; None: below `out`.
        generate, train: further settings of `generate.py` and `train.py`, as one types them.
        group: the runs' group in W&B; None: no W&B.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scales: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = SCALES
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = METHODS
    seeds: PositiveInt = 3
    captions: PositiveInt | None = None
    images: PositiveInt = 4
    steps: PositiveInt | None = None
    out: Path = Path("runs/guidance_sweep")
    sets: Path | None = None
    generate: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    group: str | None = None

    @model_validator(mode="after")
    def _each_once(self) -> SweepSettings:
        for name in ("scales", "methods"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"{name}: {', '.join(map(str, values))} has a value twice. Name each once")
        return self


@dataclass(frozen=True)
class Job:
    """A set to make and measure, or a run to train and evaluate.

    Attributes:
        scale: guidance scale; None: real drawings.
        method, seed: of a run; None for a set.
    """

    scale: float | None
    method: Method | None = None
    seed: int | None = None

    @property
    def kind(self) -> Literal["generate", "train"]:
        """Program that does most of the work."""
        return "generate" if self.method is None else "train"

    @property
    def text(self) -> str:
        """In words."""
        data = "real drawings" if self.scale is None else f"guidance scale {self.scale:g}"
        return f"set of {data}" if self.method is None else f"{self.method} on {data}, seed {self.seed}"


def jobs_of(settings: SweepSettings) -> Iterator[Job]:
    """All jobs in their order: the sets, then whole comparisons, seed by seed."""
    for scale in settings.scales:
        yield Job(scale)
    for seed in range(settings.seeds):
        for method in settings.methods:
            for data in (None, *settings.scales):
                yield Job(data, method, seed)


def generate_overrides(settings: SweepSettings, scale: float) -> list[str]:
    """What is typed after `generate.py`."""
    place = settings.sets or settings.out / "generated"
    typed = [f"generator.guidance_scale={scale:g}", f"generator.images_per_caption={settings.images}"]
    typed += [f"limit={settings.captions}"] if settings.captions else []
    return [*typed, f"out={_quoted(place)}", *settings.generate]


def train_overrides(settings: SweepSettings, job: Job, root: str) -> list[str]:
    """What is typed after `train.py`.

    Args:
        settings: of the sweep.
        job: a run.
        root: folder of its set.
    """
    if job.scale is None:
        typed = [f"+experiment={job.method}_emoji"]
        typed += [f"data.limit={settings.captions}", "data.limit_by=caption"] if settings.captions else []
    else:
        typed = [f"+experiment={job.method}_emoji_synthetic", f"data.root={_quoted(root)}"]
        typed += [f"data.guidance_scale={job.scale:g}", f"data.images_per_caption={settings.images}"]
    typed += [f"seed={job.seed}", f"paths.runs={_quoted(settings.out / 'runs')}"]
    typed += [f"duration.steps={settings.steps}"] if settings.steps else []
    typed += ["logger=wandb", f"logger.wandb.group={_quoted(settings.group)}"] if settings.group else []
    return [*typed, *settings.train]


def _quoted(value: str | Path) -> str:
    """A text as Hydra reads it, whatever signs it has."""
    return json.dumps(str(value), ensure_ascii=False)
