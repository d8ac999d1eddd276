"""The typed configuration of a training run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from lgrep.data.views import ViewEntry

Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A mapping with known keys only."""

    model_config = ConfigDict(extra="forbid")


class Backbone(Section):
    """Arguments of `lgrep.backbones.build_backbone`."""

    name: str
    image_size: PositiveInt | None = None
    pretrained: bool = False
    options: dict[str, Any] = {}


class Optimizer(Section):
    """Optimiser and the rule that turns `base_lr` into the learning rate.

    `lr_scaling`: `pictures` multiplies by V * anchors / reference_batch (StableRep: reference 512),
    `anchors` by anchors / reference_batch (language-guided SimCLR: 512), `none` takes base_lr as it is.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    base_lr: PositiveFloat
    lr_scaling: Literal["pictures", "anchors", "none"] = "pictures"
    reference_batch: PositiveInt = 512
    weight_decay: NonNegativeFloat = 0.0
    decay_exclude: Literal["norm_and_bias", "none"] = "norm_and_bias"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    momentum: Share = 0.9


class Schedule(Section):
    """Linear warm-up, then half a cosine, per optimiser step. Give the warm-up in epochs or in steps."""

    warmup_epochs: NonNegativeFloat | None = None
    warmup_steps: NonNegativeInt | None = None
    start_lr: NonNegativeFloat = 0.0
    final_lr: NonNegativeFloat = 0.0
    warmup_inclusive: bool = False

    @model_validator(mode="after")
    def _one_warmup(self) -> Schedule:
        if self.warmup_epochs is not None and self.warmup_steps is not None:
            raise ValueError(
                "give warmup_epochs or warmup_steps, not both. Type schedule.warmup_steps=null or schedule.warmup_epochs=null"
            )
        return self


class Duration(Section):
    """Length of a run in epochs (passes over the anchors) or optimiser steps.

    `published` names a schedule of the data set, which gives the epochs and the warm-up unless they are given here
    or in `schedule`.
    """

    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    published: str | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Duration:
        both = self.epochs is not None and self.steps is not None
        if both or (self.epochs is None and self.steps is None and self.published is None):
            raise ValueError(
                "give either epochs or steps. Type duration=steps duration.steps=N, or duration=epochs duration.epochs=N"
            )
        return self


class Loader(Section):
    """Batches and loading processes.

    `cache_mb`: decoded pictures that the loading processes of a training process keep together. `decode`: `scaled` has
    large JPEG files decoded at 1/2, 1/4 or 1/8 of their size where every crop still has its view's pixels.
    `order`: of an epoch; `shards` reads archives one after the other, anchors mixed within 16 of them.
    """

    batch_size: PositiveInt
    workers: NonNegativeInt | None = None
    cache_mb: NonNegativeInt = 0
    decode: Literal["exact", "scaled"] = "exact"
    order: Literal["random", "shards"] = "random"
    max_skip_share: Annotated[float, Field(ge=0, le=1)] = 0.1


class Augment(Section):
    """Views of an anchor and the transforms they name.

    `device`: where flip, jitter, grey, blur, solarise and normalise run: `cpu` in the loading processes, `gpu` after the
    transfer, on the training device, `auto` the faster of the two.
    """

    device: Literal["auto", "cpu", "gpu"] = "auto"
    views: list[ViewEntry]
    transforms: dict[str, dict[str, Any]]


class Trainer(Section):
    """Hardware and precision; the same names as Lightning's Trainer.

    `chunk_size`: pictures that the backbone sees at a time, so that any batch fits; its activations are computed
    again in the backward pass. `chunk_bn` accepts a backbone whose BatchNorm then sees pieces.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] = "auto"
    num_nodes: PositiveInt = 1
    strategy: str = "auto"
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed", "bf16-true"] = "32-true"
    threads: PositiveInt | None = None
    sync_batchnorm: bool = True
    channels_last: bool = False
    chunk_size: PositiveInt | None = None
    chunk_bn: bool = False
    log_every_n_steps: PositiveInt = 10


class Checkpoint(Section):
    """When the state is saved and how many states are kept."""

    every_n_steps: PositiveInt = 500
    keep: PositiveInt = 2


class Paths(Section):
    """Where runs are written."""

    runs: str = "runs"


class TrainConfig(Section):
    """Everything that `train.py` reads. Sections that are plain dicts hold `_target_` nodes."""

    name: str | None = None
    seed: NonNegativeInt = 0
    resume: Literal["auto", "never"] = "auto"
    deterministic: bool = True
    debug: bool = False
    doctor: bool | PositiveInt = False
    data: dict[str, Any]
    pairing: dict[str, Any]
    augment: Augment
    text: dict[str, Any] = {}
    method: dict[str, Any]
    language: dict[str, Any] = {}
    backbone: Backbone
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    duration: Duration
    loader: Loader
    trainer: Trainer = Trainer()
    logger: dict[str, dict[str, Any] | None] = {}
    callbacks: dict[str, dict[str, Any] | None] = {}
    checkpoint: Checkpoint = Checkpoint()
    paths: Paths = Paths()


class EvaluateConfig(Section):
    """Everything that `evaluate.py` reads."""

    model: str | list[str] = []
    dataset: str | list[str] = ["emoji", "digits"]
    baselines: bool = True
    image_size: PositiveInt | None = None
    batch_size: PositiveInt = 256
    workers: NonNegativeInt = 0
    device: str = "auto"
    seed: NonNegativeInt = 0
    out: str = "evaluations"
    debug: bool = False
