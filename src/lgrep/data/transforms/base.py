"""What every transform offers: parameters drawn once, pixels moved in the worker, the rest on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Params: TypeAlias = dict[str, Any]  # values: float, int, tuple or array
Channels: TypeAlias = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


class Transform(Protocol):
    """One way to turn a picture into a view, in four steps.

    `draw` and `worker` run per picture in a data-loading worker, `collate` per batch there, `device` per
    batch where the model is. Randomness is in `draw` only, so that any of the other steps can be repeated
    elsewhere with the same result.

    Attributes:
        mean, std: per channel, of pictures in [0, 1]; what `device` normalises with.
    """

    mean: Channels
    std: Channels

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Params:
        """Every random choice for one view of a picture of `width` x `height` pixels."""
        ...

    def worker(self, picture: Image.Image, params: Mapping[str, Any], size: int) -> NDArray[Any]:
        """The RGB picture as an array [3, size, size] (uint8 unless the transform says otherwise)."""
        ...

    def collate(self, params: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The drawn parameters of B pictures as tensors for `device`.

        Tensors have the leading dimension B, apart from those named `*_index`: Long lists of the positions
        in the batch to which an operation applies. Their lengths are known to the host, so the device stage
        needs neither boolean masks nor synchronisation.
        """
        ...

    def device(self, pictures: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Normalised float32 [B, 3, H, W] of the workers' pictures; deterministic, picture by picture."""
        ...


def channels(values: Sequence[float]) -> Channels:
    """Three floats from any sequence, such as a list from a configuration file."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@torch.no_grad()
def render(transform: Transform, picture: Image.Image, rng: np.random.Generator, size: int) -> Tensor:
    """One view of one RGB picture through all four steps on the CPU: float32 [3, size, size].

    >>> from lgrep.data.transforms import EvalRecipe
    >>> render(EvalRecipe(), Image.new("RGB", (50, 40)), np.random.default_rng(0), 32).shape
    torch.Size([3, 32, 32])
    """
    params = transform.draw(rng, *picture.size)
    pictures = torch.from_numpy(transform.worker(picture, params, size)).unsqueeze(0)
    return transform.device(pictures, transform.collate([params])).squeeze(0)
