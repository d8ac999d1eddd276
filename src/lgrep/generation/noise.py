"""What a picture starts from: noise that depends on (seed, caption, index, attempt) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgrep.data.randomness import keyed_generator

_STEPS = 1 << 32  # indices count from 0 for the first noise, from here for what a solver draws on its way


@dataclass(frozen=True)
class Key:
    """Which picture.

    Attributes:
        seed: of the set.
        caption: id of the caption.
        index: number of the picture among those of its caption.
        attempt: how many broken pictures came before it.
    """

    seed: int
    caption: str
    index: int
    attempt: int = 0

    def generator(self, stream: int = 0) -> np.random.Generator:
        """Counter-based generator of this picture."""
        caption = int.from_bytes(hashlib.sha256(self.caption.encode("utf-8", "surrogatepass")).digest()[:8], "little")
        return keyed_generator(self.seed, self.attempt, caption, stream + self.index)


def first_noise(keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers float32 [B, *shape], row by row from each picture's own generator.

    >>> a, b = Key(0, "cat", 0), Key(0, "cat", 1)
    >>> torch.equal(first_noise([a, b], (4,))[1], first_noise([b], (4,))[0])
    True
    """
    return torch.from_numpy(np.stack([key.generator().standard_normal(tuple(shape), np.float32) for key in keys]))


def step_generators(keys: Sequence[Key]) -> list[torch.Generator]:
    """One generator per picture for solvers that draw noise on their way; on the CPU, so that all devices agree."""
    return [torch.Generator().manual_seed(int(key.generator(_STEPS).integers(2**63))) for key in keys]


def noise_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """Shape of the noise of one picture.

    Pipelines that know it have `noise_shape(height, width)`. Others denoise [C, H/f, W/f] with a UNet or a
    transformer, or, as Flux, its 2 x 2 patches [H/2f * W/2f, 4C].
    """
    own = getattr(pipe, "noise_shape", None)
    if callable(own):
        return tuple(own(height, width))
    network, factor = denoiser(pipe), pipe.vae_scale_factor
    channels = int(network.config.in_channels)
    if hasattr(pipe, "_pack_latents"):
        return ((height // (2 * factor)) * (width // (2 * factor)), channels)
    return (channels, height // factor, width // factor)


def denoiser(pipe: Any) -> Any:
    """The network that is called at every step, or None."""
    unet = getattr(pipe, "unet", None)
    return unet if unet is not None else getattr(pipe, "transformer", None)
