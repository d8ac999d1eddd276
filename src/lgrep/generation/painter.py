"""A loaded pipeline as a function: captions and keys in, pixels and verdicts out."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from lgrep.errors import ConfigError
from lgrep.generation.broken import OK, UNSAFE, to_bytes
from lgrep.generation.noise import Key, denoiser, first_noise, noise_shape, step_generators
from lgrep.generation.settings import Generator
from lgrep.records import weights_hash

Pixels = NDArray[np.uint8]
_LINE_BREAKS = str.maketrans(dict.fromkeys("\t\r\n\v\f\x85\u2028\u2029", " "))  # as the published scripts do


class Painter:
    """Draws batches of pictures.

    Args:
        pipe: a diffusers pipeline, or anything called the same way.
        settings: see `Generator`.
        device: where it draws.

    Attributes:
        facts: what decides the pictures besides captions and seed, as plain values: hashes of all parts, the
            scheduler and its settings, pixels, precision.
        height, width: of the pictures as drawn, in px.
    """

    def __init__(self, pipe: Any, settings: Generator, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.accepted = set(inspect.signature(type(pipe).__call__).parameters)
        self._check_arguments(type(pipe).__name__)
        self.checker = (getattr(pipe, "safety_checker", None), getattr(pipe, "feature_extractor", None))
        if self.checker[0] is not None:
            pipe.safety_checker = None  # it would paint over pictures; verdicts are asked for here
        self.height, self.width = _side_lengths(pipe, settings)
        self.shape = noise_shape(pipe, self.height, self.width)
        self.facts: dict[str, Any] = {
            "pipeline_class": type(pipe).__name__,
            "parts": _parts(pipe, self.checker[0] if settings.safety != "off" else None),
            "scheduler": _scheduler(pipe.scheduler),
            "height": self.height,
            "width": self.width,
            "dtype": settings.precision(device),
        }
        self.pipe = _placed(pipe, self.checker[0], device)
        self._compiled = False

    @property
    def device_kind(self) -> str:
        """What draws: `cpu`, or the name of the GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else "cpu"

    def __call__(
        self, texts: Sequence[str], keys: Sequence[Key], batch_size: int
    ) -> tuple[Pixels, list[str], list[bool]]:
        """Draw one batch.

        Args:
            texts: captions.
            keys: of their pictures.
            batch_size: that of full batches; compiled networks see no other.

        Returns:
            Pixels uint8 [B, H, W, 3] as drawn, statuses (see `to_bytes`, and `unsafe`), and verdicts of the safety
            checker (all False when it is off).
        """
        self._compile()
        count = len(texts)
        fill = batch_size - count if self.settings.compile else 0
        texts, keys = [*texts, *[texts[-1]] * fill], [*keys, *[keys[-1]] * fill]
        with torch.inference_mode():
            images = self._images(texts, keys)[:count]
            pixels, status = to_bytes(images, self.settings.rounding == "truncate")
            flagged = self._flagged(pixels) if self.settings.safety != "off" else [False] * count
        if self.settings.safety == "exclude":
            status = [UNSAFE if flag and now == OK else now for now, flag in zip(status, flagged, strict=True)]
        return pixels, status, flagged

    def _compile(self) -> None:
        """Compile when the first batch is drawn: all processes then compile for the same shapes."""
        network = denoiser(self.pipe)
        if self.settings.compile and not self._compiled and network is not None:
            name = "unet" if network is getattr(self.pipe, "unet", None) else "transformer"
            setattr(self.pipe, name, torch.compile(network, dynamic=False))
            self._compiled = True

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        """Whether the end of a caption is beyond what every text encoder reads."""
        own = getattr(self.pipe, "too_long", None)
        if callable(own):
            return [bool(value) for value in own(list(texts))]
        tokenizers = [getattr(self.pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
        readers = [(tokenizer, self._limit(tokenizer)) for tokenizer in tokenizers if callable(tokenizer)]
        cut = [True] * len(texts) if readers else [False] * len(texts)
        for tokenizer, limit in readers:
            lengths = [len(ids) for ids in tokenizer([prompt(text) for text in texts], truncation=False)["input_ids"]]
            cut = [so_far and length > limit for so_far, length in zip(cut, lengths, strict=True)]
        return cut

    def _limit(self, tokenizer: Any) -> int:
        limit = int(tokenizer.model_max_length)
        asked = inspect.signature(type(self.pipe).__call__).parameters.get("max_sequence_length")
        if asked is not None and "T5" in type(tokenizer).__name__:
            limit = min(limit, int(self.settings.options.get("max_sequence_length", asked.default)))
        return limit

    def _images(self, texts: Sequence[str], keys: Sequence[Key]) -> Tensor:
        settings = self.settings
        network = denoiser(self.pipe)
        kind = getattr(network, "dtype", torch.float32)
        arguments: dict[str, Any] = {
            "prompt": [prompt(text) for text in texts],
            "height": self.height,
            "width": self.width,
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
            "latents": first_noise(keys, self.shape).to(self.device, kind),
            "generator": step_generators(keys),
            "output_type": "pt",
        }
        if settings.negative_prompt is not None:
            arguments["negative_prompt"] = [settings.negative_prompt] * len(texts)
        known = {name: value for name, value in arguments.items() if name in self.accepted}
        found: Tensor = self.pipe(**known, **settings.options).images
        return found

    def _flagged(self, pixels: Pixels) -> list[bool]:
        checker, extractor = self.checker
        assert checker is not None and extractor is not None
        seen = extractor([Image.fromarray(picture) for picture in pixels], return_tensors="pt").pixel_values
        first = next(checker.parameters())
        # The checker paints over what it flags, so it gets a copy.
        _, verdicts = checker(images=list(pixels.copy()), clip_input=seen.to(first.device, first.dtype))
        return [bool(verdict) for verdict in verdicts]

    def _check_arguments(self, name: str) -> None:
        for argument in ("latents", "output_type"):
            if argument not in self.accepted:
                raise ConfigError(
                    f"generator.pipeline: {name} takes no {argument}, so its pictures cannot be made again"
                )
        wanted = {"negative_prompt": self.settings.negative_prompt, **self.settings.options}
        for argument, value in wanted.items():
            if value is not None and argument not in self.accepted:
                raise ConfigError(
                    f"generator.{argument}: {name} takes no such argument. Type generator.{argument}=null"
                )


def prompt(text: str) -> str:
    r"""A caption as the pipeline gets it: line breaks and tabs become blanks.

    >>> prompt(" two\nlines ")
    'two lines'
    """
    return text.translate(_LINE_BREAKS).strip()


def _side_lengths(pipe: Any, settings: Generator) -> tuple[int, int]:
    """Height and width at which the pipeline draws, in px."""
    if settings.size is None:
        own = getattr(pipe, "default_size", None) or _default_size(pipe)
        return int(own), int(own)
    height, width = (settings.size, settings.size) if isinstance(settings.size, int) else settings.size
    factor = getattr(pipe, "vae_scale_factor", 1) * (2 if hasattr(pipe, "_pack_latents") else 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"generator.size={settings.size}: {type(pipe).__name__} draws multiples of {factor} px. Type generator.size="
            f"{max(factor, round(height / factor) * factor)}"
        )
    return height, width


def _default_size(pipe: Any) -> int:
    sample = getattr(pipe, "default_sample_size", None) or getattr(denoiser(pipe).config, "sample_size", None)
    if not isinstance(sample, int):
        raise ConfigError(f"generator.size: {type(pipe).__name__} does not tell its size. Type generator.size=512")
    return sample * int(getattr(pipe, "vae_scale_factor", 1))


def _parts(pipe: Any, checker: Any) -> dict[str, str]:
    """Part -> hash of its weights or vocabulary."""
    parts = {name: part for name, part in pipe.components.items() if name not in ("safety_checker", "scheduler")}
    found = {name: weights_hash(part) for name, part in parts.items() if isinstance(part, nn.Module)}
    if checker is not None:
        found["safety_checker"] = weights_hash(checker)
    for name, part in parts.items():
        if hasattr(part, "get_vocab"):
            found[name] = digest([sorted(part.get_vocab().items()), getattr(part, "model_max_length", None)])
    return found


def _scheduler(scheduler: Any) -> dict[str, Any]:
    settings = {name: value for name, value in dict(scheduler.config).items() if not name.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps({"class": type(scheduler).__name__, **settings}, default=str))
    return plain


def _placed(pipe: Any, checker: Any, device: str) -> Any:
    """The pipeline on its device, laid out for speed."""
    pipe = pipe.to(device)
    if checker is not None:
        checker.to(device)
    if device.startswith("cuda"):
        torch.backends.cudnn.deterministic = True  # the same bytes whoever draws, whenever
        torch.backends.cudnn.allow_tf32 = True
        for part in (denoiser(pipe), getattr(pipe, "vae", None)):
            if part is not None:
                part.to(memory_format=torch.channels_last)
    return pipe


def digest(value: Any) -> str:
    """16 hexadecimal digits over plain values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
