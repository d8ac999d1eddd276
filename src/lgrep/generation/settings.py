"""What decides the pictures of a generated set; the target of `configs/generator/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from lgrep.errors import ConfigError

EMOJI = "emoji"  # the pipeline of the package
# Solvers of diffusers that draw at most from the generators that they are given.
Scheduler = Literal[
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "LCMScheduler", "TCDScheduler",
    "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler",
]  # fmt: skip
Size = PositiveInt | tuple[PositiveInt, PositiveInt]
# The number of images may grow; the others are part of the identity as what they come to (weights, pixels, ...).
_RESOLVED = ("images_per_caption", "pipeline", "variant", "revision", "scheduler", "scheduler_options", "size", "dtype",
             "batch_size", "shard_captions")  # fmt: skip
_MOST_BYTES = 2**29  # raw pixels of a shard: it is put together in memory


@dataclass(frozen=True)
class Generator:
    """A text-to-image pipeline and how it draws.

    Everything here but `images_per_caption` is part of the identity of a set.

    Attributes:
        pipeline: `emoji` (the package's own), a folder written by `save_pretrained`, or a name on the hub.
        guidance_scale: of classifier-free guidance; 1 is none.
        steps: of the solver.
        scheduler: class in diffusers; None: the pipeline's own.
        scheduler_options: settings that replace the scheduler's own.
        size: side in px, or (height, width), at which the pipeline draws; None: its own.
        save_size: short side in px of what is stored (antialiased bicubic); None: as drawn.
        codec, quality: of what is stored; `quality` is that of JPEG and WebP.
        rounding: of pixel values; `truncate` is the published scripts'.
        negative_prompt: what guidance leads away from; None: the pipeline's own way, the empty prompt.
        images_per_caption: how many pictures of each caption; may be raised later.
        batch_size: captions drawn at once; `auto`: found once on a GPU, 16 on a CPU.
        shard_captions: captions of a shard, which holds one picture of each; `auto`: by the number of captions.
        dtype: of weights and activations; `auto`: float16 on GPUs, float32 else.
        compile: compile the network (batches then all have the same size).
        attention_slicing, vae_slicing, vae_tiling: less memory for more time.
        safety: verdicts of the pipeline's safety checker: not asked for, recorded, or such pictures are not stored.
        retries: how often a broken picture (NaN, black, of one colour) is drawn again from other noise.
        options: further arguments of the pipeline's call.
        variant, revision: of the weights on the hub.
    """

    pipeline: str
    guidance_scale: NonNegativeFloat = 7.5
    steps: PositiveInt = 50
    scheduler: Scheduler | None = None
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    size: Size | None = None
    save_size: PositiveInt | None = None
    codec: Literal["png", "jpeg", "webp"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    rounding: Literal["nearest", "truncate"] = "nearest"
    negative_prompt: str | None = None
    images_per_caption: PositiveInt = 4
    batch_size: PositiveInt | Literal["auto"] = "auto"
    shard_captions: PositiveInt | Literal["auto"] = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    compile: bool = False
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    safety: Literal["off", "record", "exclude"] = "off"
    retries: NonNegativeInt = 2
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    revision: str | None = None

    def facts(self) -> dict[str, Any]:
        """The settings that are part of the identity as they are; what others come to is told by the loaded pipeline."""
        return {name: value for name, value in plain(self).items() if name not in _RESOLVED}

    def precision(self, device: str) -> str:
        """Name of the torch type on a device."""
        if self.dtype != "auto":
            return self.dtype
        return "float16" if device.startswith("cuda") else "float32"

    def captions_per_shard(self, captions: int, batch_size: int, height: int, width: int) -> int:
        """Captions of a shard; whole batches where nobody asked for another number."""
        if self.shard_captions != "auto":
            return self.shard_captions
        most = max(16, min(4096, _MOST_BYTES // (3 * height * width)))
        wanted = min(most, max(64, -(-captions // 32)))
        return -(-wanted // batch_size) * batch_size


def plain(settings: Generator) -> dict[str, Any]:
    """The settings as JSON knows them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def check_generator(settings: Generator) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: says what to type.
    """
    reserved = sorted({"prompt", "latents", "generator", "output_type", "num_images_per_prompt", "return_dict",
                       "height", "width", "guidance_scale", "num_inference_steps", "negative_prompt",
                       "callback_on_step_end"} & set(settings.options))  # fmt: skip
    if reserved:
        raise ConfigError(
            f"generator.options.{reserved[0]}: the engine supplies it. Use the setting of its own, or drop it"
        )
    if settings.pipeline == EMOJI and (settings.variant or settings.revision):
        raise ConfigError("generator.variant and revision belong to weights on the hub. Drop them for pipeline=emoji")
    if settings.codec == "png" and settings.quality != 95:
        raise ConfigError("generator.quality is that of jpeg and webp. Type generator.codec=jpeg, or drop it")
    if settings.scheduler is None and settings.scheduler_options:
        raise ConfigError(
            "generator.scheduler_options needs a scheduler. Type generator.scheduler=DDIMScheduler, or another"
        )
