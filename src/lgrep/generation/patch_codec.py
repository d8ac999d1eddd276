"""Pictures as a few numbers for each patch: principal components, and a small network that hides the seams."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

_FOLD = 4  # px: the network sees the picture folded to a quarter of its side


class PatchCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A linear autoencoder of patches with a convolutional finish.

    Components are divided by the square root of their standard deviation (and one number for all), half-way to
    whitening: noise then hides the fine ones last.

    Args:
        patch: side of a patch in px.
        latent_channels: components that are kept.
        width, depth: channels and hidden layers of the finishing network.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, patch: int = 16, latent_channels: int = 64, width: int = 80, depth: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.zeros(3 * patch**2))
        self.register_buffer("components", torch.zeros(latent_channels, 3 * patch**2))
        self.register_buffer("scale", torch.ones(latent_channels))
        folded = 3 * _FOLD**2
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([folded, *[width] * depth, folded]):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.SiLU()]
        self.finish = nn.Sequential(*layers[:-1])
        last: Any = self.finish[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Set mean, components and scale from pictures [N, 3, H, W] in [-1, 1]."""
        size = len(self.mean)
        total, products, number = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
        for some in torch.split(pictures, 256):
            patches = pixel_unshuffle(some, self.patch).movedim(1, -1).flatten(0, -2).double()
            total, products, number = total + patches.sum(0), products + patches.T @ patches, number + len(patches)
        mean = total / number
        variances, directions = torch.linalg.eigh(products / number - torch.outer(mean, mean))
        count = len(self.scale)
        kept = variances.flip(0)[:count]
        components = directions.flip(1)[:, :count].T
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        root = kept.sqrt().sqrt()
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())
        self.scale.copy_(1 / (root * (kept.sqrt().mean().sqrt())))

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [N, C, H/p, W/p] of pictures [N, 3, H, W] in [-1, 1]."""
        patches = pixel_unshuffle(pictures, self.patch).movedim(1, -1)
        latents = ((patches - self.mean) @ self.components.T) * self.scale
        moved: Tensor = latents.movedim(-1, 1)
        return moved

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] in [-1, 1] of latents [N, C, H/p, W/p]."""
        return self.smoothed(self.rough(latents)).clamp(-1, 1)

    def rough(self, latents: Tensor) -> Tensor:
        """What the components alone say, in [-1, 1]."""
        patches = (latents.movedim(1, -1) / self.scale) @ self.components + self.mean
        return pixel_shuffle(patches.movedim(-1, 1), self.patch).clamp(-1, 1)

    def smoothed(self, pictures: Tensor) -> Tensor:
        """Pictures with seams hidden and edges sharpened; not clamped."""
        correction: Tensor = self.finish(pixel_unshuffle(pictures, _FOLD))
        return pictures + pixel_shuffle(correction, _FOLD)
