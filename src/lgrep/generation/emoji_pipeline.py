"""The package's own text-to-image model: emoji of 64 px from a caption, as a diffusers pipeline."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, PixArtTransformer2DModel, SchedulerMixin
from diffusers.image_processor import VaeImageProcessor
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate

from lgrep.errors import CheckpointError, ConfigError, did_you_mean
from lgrep.generation.patch_codec import PatchCodec
from lgrep.generation.text_encoder import CaptionEncoder, Condition, words_of

OutputType = Literal["pil", "np", "pt", "latent"]
_WEIGHTS = "emoji"  # folder of the package


class EmojiPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Draws emoji from captions, called as diffusers' Stable Diffusion is.

    `docs/model_card_emoji_generator.md` says what it was trained on and how good it is.

    Args:
        transformer: denoises latents [B, 64, 4, 4].
        scheduler: one of diffusers'.
        text_encoder: of the captions.
        vae: turns latents into pictures.

    >>> pipe = load_emoji_pipeline()
    >>> pipe.set_progress_bar_config(disable=True)
    >>> pipe(["red apple", "cat"], generator=torch.Generator().manual_seed(0), output_type="pt").images.shape
    torch.Size([2, 3, 64, 64])
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        transformer: PixArtTransformer2DModel,
        scheduler: SchedulerMixin,
        text_encoder: CaptionEncoder,
        vae: PatchCodec,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, text_encoder=text_encoder, vae=vae)
        self.vae_scale_factor = int(vae.config.patch)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @property
    def default_size(self) -> int:
        """Side in px of the pictures it was trained on."""
        return int(self.transformer.config.sample_size) * self.vae_scale_factor

    def noise_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """Shape of one row of `latents` for pictures of this size in px."""
        height, width = height or self.default_size, width or self.default_size
        step = self.vae_scale_factor
        if height % step or width % step:
            raise ConfigError(
                f"size {height} x {width}: sides are multiples of {step} px; it is made for {self.default_size}"
            )
        return (
            int(self.transformer.config.out_channels),
            height // self.vae_scale_factor,
            width // self.vae_scale_factor,
        )

    def too_long(self, captions: Sequence[str]) -> list[bool]:
        """Whether words at the end of a caption are not read."""
        return [len(words_of(text)) > self.text_encoder.max_words for text in captions]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 10,
        guidance_scale: float = 4.0,
        negative_prompt: str | Sequence[str] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        designer: str | Sequence[str] | None = "any",
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw one picture for each caption; a row depends on its caption and its noise alone.

        Args:
            prompt: captions.
            height, width: in px, multiples of 16; 64 by default.
            num_inference_steps: of the scheduler.
            guidance_scale: of classifier-free guidance; 1 is none.
            negative_prompt: what guidance leads away from; the empty caption by default.
            generator: draws the noise, and what the scheduler draws on its way.
            latents: the noise [B, *noise_shape(height, width)].
            designer: in whose style: a name of `text_encoder.designers`, one for each caption, "any" (drawn for each
                picture, from its noise) or None (the network is not told).
            output_type: "pil", "np" ([B, H, W, 3] in [0, 1]), "pt" ([B, 3, H, W] in [0, 1]) or "latent".
            return_dict: whether to return an object with `images` instead of a tuple.

        Raises:
            ConfigError: arguments that do not fit together.
        """
        captions = [prompt] if isinstance(prompt, str) else list(prompt)
        shape = (len(captions), *self.noise_shape(height, width))
        device, kind = self._execution_device, self.transformer.dtype
        if latents is None:
            latents = _noise(shape, generator)
        if tuple(latents.shape) != shape:
            raise ConfigError(
                f"latents are {tuple(latents.shape)}, but {shape} for {len(captions)} captions of this size"
            )
        styles = self._styles(designer, latents).to(device)
        guided = guidance_scale != 1.0
        condition = self._condition(captions, _negatives(negative_prompt, len(captions)) if guided else None, styles)
        latents = latents.to(device, kind)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * self.scheduler.init_noise_sigma
        extra = {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        for moment in self.progress_bar(self.scheduler.timesteps):
            predicted = self._predict(latents, moment, condition, guidance_scale)
            latents = self.scheduler.step(predicted, moment, latents, return_dict=False, **extra)[0].to(kind)
        images = latents if output_type == "latent" else self._finished(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _predict(self, latents: Tensor, moment: Tensor, condition: Condition, guidance_scale: float) -> Tensor:
        """The network's prediction, guided: both halves in one pass."""
        copies = len(condition.sequence) // len(latents)
        seen = self.scheduler.scale_model_input(torch.cat([latents] * copies), moment)
        layout = condition.layout.to(seen.dtype)
        if layout.shape[2:] != seen.shape[2:]:
            layout = interpolate(layout, size=seen.shape[2:], mode="bilinear")
        found: Tensor = self.transformer(
            torch.cat([seen, layout], 1),
            encoder_hidden_states=condition.sequence.to(seen.dtype),
            timestep=moment.to(seen.device).expand(len(seen)),
            added_cond_kwargs={},
            encoder_attention_mask=condition.mask,
            return_dict=False,
        )[0]
        if copies == 1:
            return found
        without, with_caption = found.chunk(2)
        guided: Tensor = without + guidance_scale * (with_caption - without)
        return guided

    def _condition(self, captions: list[str], negatives: list[str] | None, styles: Tensor) -> Condition:
        """For each picture, the negatives' first where there are any; both halves have the same styles."""
        texts = captions if negatives is None else negatives + captions
        told = styles if negatives is None else torch.cat([styles, styles])
        found: Condition = self.text_encoder(self.text_encoder.read(texts).to(styles.device), told)
        return found

    def _styles(self, designer: str | Sequence[str] | None, latents: Tensor) -> Tensor:
        """Row of each picture's designer, -1 for none; "any" makes uniform ones of the sums of the noise."""
        names = list(self.text_encoder.designers)
        if designer is None:
            return torch.full((len(latents),), -1)
        if designer == "any":
            sums = latents.detach().double().cpu().flatten(1).sum(1) / latents[0].numel() ** 0.5
            uniform: Tensor = torch.special.ndtr(sums)
            return (uniform * len(names)).long().clamp(0, len(names) - 1)
        asked = [designer] * len(latents) if isinstance(designer, str) else list(designer)
        wrong = sorted(set(asked) - set(names))
        if wrong or len(asked) != len(latents):
            hint = did_you_mean(wrong[0], [*names, "any"]) if wrong else f"{len(asked)} for {len(latents)} captions"
            raise ConfigError(f"designer={designer}: {hint}")
        return torch.tensor([names.index(name) for name in asked])

    def _finished(self, latents: Tensor, output_type: str) -> Any:
        pictures = self.vae.decode(latents.to(self.vae.dtype))
        return self.image_processor.postprocess(pictures.float(), output_type=output_type)


def load_emoji_pipeline(folder: str | Path | None = None) -> EmojiPipeline:
    """The pipeline with the package's weights, or those of a folder that `save_pretrained` wrote; float32, on the CPU.

    Raises:
        CheckpointError: there are none.
    """
    place = resources.files(__package__) / _WEIGHTS if folder is None else Path(folder)
    if not (place / "model_index.json").is_file():
        raise CheckpointError(
            f"no emoji generator in {place}: it has no model_index.json. Make one with "
            "`python scripts/train_generator.py --out FOLDER`"
        )
    options = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
    try:
        pipe = EmojiPipeline(
            PixArtTransformer2DModel.from_pretrained(str(place), subfolder="transformer", **options),
            _scheduler(place),
            CaptionEncoder.from_pretrained(str(place), subfolder="text_encoder", **options),
            PatchCodec.from_pretrained(str(place), subfolder="vae", **options),
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the emoji generator in {place} cannot be loaded: {reason}") from error
    for part in (pipe.transformer, pipe.text_encoder, pipe.vae):
        part.eval().requires_grad_(False)
    return pipe


def _scheduler(place: Path | Traversable) -> SchedulerMixin:
    """The scheduler that a folder names, if it is one of diffusers'."""
    name = json.loads((place / "model_index.json").read_text(encoding="utf-8"))["scheduler"][1]
    kind: Any = getattr(diffusers, str(name), None)
    if SchedulerMixin not in getattr(kind, "__mro__", ()):
        raise ValueError(f"{name} is no scheduler of diffusers")
    found: SchedulerMixin = kind.from_pretrained(str(place), subfolder="scheduler")
    return found


def _negatives(negative_prompt: str | Sequence[str] | None, count: int) -> list[str]:
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or ""] * count
    if len(negative_prompt) != count:
        raise ConfigError(f"negative_prompt has {len(negative_prompt)} texts for {count} captions")
    return list(negative_prompt)


def _noise(shape: tuple[int, ...], generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Standard normal [B, ...], drawn on the generator's device; each row from its own where there are several."""
    if isinstance(generator, list):
        if len(generator) != shape[0]:
            raise ConfigError(f"{len(generator)} generators for {shape[0]} captions")
        return torch.stack([torch.randn(shape[1:], generator=one, device=one.device) for one in generator])
    return torch.randn(shape, generator=generator, device=generator.device if generator else None)
