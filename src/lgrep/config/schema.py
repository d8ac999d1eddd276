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
    `final_weight_decay`: the decay follows half a cosine from `weight_decay` to this (DINO: 0.04 to 0.4, SynCLR: 0.04 to
    0.2). `betas` and `eps` are adamw's, `momentum` is that of sgd and lars, `trust_coefficient` lars' own.
    """

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    base_lr: PositiveFloat
    lr_scaling: Literal["pictures", "anchors", "none"] = "pictures"
    reference_batch: PositiveInt = 512
    weight_decay: NonNegativeFloat = 0.0
    final_weight_decay: NonNegativeFloat | None = None
    decay_exclude: Literal["norm_and_bias", "none"] = "norm_and_bias"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    momentum: Share = 0.9
    trust_coefficient: PositiveFloat = 0.001


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
    """Hardware, precision and what the step trades for speed or memory (`docs/training.md`).

    `strategy`: one of Lightning's, `ddp_static` (the same graph in every step) or `fsdp2` (weights, gradients and
    optimiser state divided among the processes). `accumulate`: micro-batches of `loader.batch_size` anchors per optimiser
    step. `gradient_clip_val`: largest norm of all gradients together. `compile`: compile backbone, teacher and heads; a name chooses another backend than inductor.
    `activation_checkpointing`: activations inside the blocks of backbone and text tower are computed again in the backward
    pass. `chunk_size`: pictures that the backbone sees at a time, so that any batch fits; its activations are computed
    again in the backward pass. `chunk_bn` accepts a backbone whose BatchNorm then sees pieces. `non_finite`: a step whose
    loss or gradient is NaN or infinite changes nothing; then the run stops, or goes on (`skip`); `ignore` does not look.
    `timeout_s`: how long processes wait for one that does not answer. `requeue`: an interrupted SLURM job goes back into
    the queue (`docs/clusters.md`).
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] = "auto"
    num_nodes: PositiveInt = 1
    strategy: str = "auto"
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed", "bf16-true"] = "32-true"
    threads: PositiveInt | None = None
    sync_batchnorm: bool = True
    channels_last: bool = False
    accumulate: PositiveInt = 1
    gradient_clip_val: PositiveFloat | None = None
    compile: bool | Literal["inductor", "aot_eager", "eager"] = False
    activation_checkpointing: bool = False
    chunk_size: PositiveInt | None = None
    chunk_bn: bool = False
    non_finite: Literal["stop", "skip", "ignore"] = "stop"
    timeout_s: PositiveInt = 1800
    requeue: bool = True
    log_every_n_steps: PositiveInt = 10


class Checkpoint(Section):
    """When the state is saved and how many states are kept.

    `best`: a metric of a callback, `probe/knn_top1` for one; the state is saved whenever it is better than ever, and
    `best.ckpt` is kept beside the newest ones.
    """

    every_n_steps: PositiveInt = 500
    keep: PositiveInt = 2
    best: str | None = None
    best_mode: Literal["max", "min"] = "max"


class Paths(Section):
    """Where runs are written."""

    runs: str = "runs"


class TrainConfig(Section):
    """Everything that `train.py` reads. Sections that are plain dicts hold `_target_` nodes."""

    name: str | None = None
    seed: NonNegativeInt = 0
    resume: str = "auto"
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


class CacheConfig(Section):
    """Where `evaluate.py` keeps features: arguments of `lgrep.evaluation.cache.FeatureCache`."""

    enabled: bool = True
    folder: str | None = None
    max_gb: PositiveFloat = 20.0
    dtype: Literal["float32", "float16"] = "float32"


class EvaluateConfig(Section):
    """Everything that `evaluate.py` reads. `evaluation` holds `_target_` nodes by name, `options` those of data sets."""

    model: str | list[str] = []
    datasets: str | list[str] = ["emoji", "digits"]
    options: dict[str, dict[str, Any]] = {}
    evaluation: dict[str, dict[str, Any] | None]
    baselines: bool = True
    image_size: PositiveInt | None = None
    batch_size: PositiveInt = 256
    workers: NonNegativeInt = 0
    device: str = "auto"
    cache: CacheConfig = CacheConfig()
    resume: Literal["auto", "never"] = "auto"
    seed: NonNegativeInt = 0
    out: str = "evaluations"
    debug: bool = False


class GenerateConfig(Section):
    """Everything that `generate.py` reads; `generator` holds the arguments of `lgrep.generation.settings.Generator`.

    `captions`: a file in place of the captions of `data`. `limit`: a random part of the captions, nested in larger ones.
    `near_duplicates`, `min_clip_score`: what is left out of the finished set (`lgrep.generation.manifest.Selection`).
    `processes`, `threads`: per machine and per process; on CPUs equal threads make equal pictures.
    """

    name: str | None = None
    data: dict[str, Any]
    captions: str | None = None
    caption_column: str | None = None
    limit: PositiveInt | None = None
    limit_seed: NonNegativeInt = 0
    generator: dict[str, Any]
    seed: NonNegativeInt = 0
    near_duplicates: Annotated[int, Field(ge=0, le=64)] | None = None
    clip_model: str | None = None
    min_clip_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    processes: PositiveInt | Literal["auto"] = "auto"
    threads: PositiveInt = 1
    verify: bool = True
    out: Annotated[str, Field(min_length=1)] = "generated"
    paths: Paths = Paths()
    debug: bool = False
