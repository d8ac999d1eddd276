"""Transforms without a device stage of their own: evaluation views, and any callable run in the worker."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from lgrep.data.pictures import to_rgb
from lgrep.data.transforms import color
from lgrep.data.transforms.base import IMAGENET_MEAN, IMAGENET_STD, Channels, Params, channels
from lgrep.data.transforms.crop import Interpolation, resize_short_side, to_array
from lgrep.errors import ConfigError, DataError

Positive = Annotated[float, Field(gt=0)]


class EvalRecipe:
    """The deterministic view of evaluation: short side resized, centre cropped, normalised.

    Args:
        crop_fraction: side of the crop / short side of the resized picture (0.875: 256 then 224).
        interpolation: of the resize; antialiased.
        mean, std: normalisation per channel, for pictures in [0, 1].
    """

    def __init__(
        self,
        *,
        crop_fraction: Annotated[float, Field(gt=0, le=1)] = 0.875,
        interpolation: Interpolation = "bicubic",
        mean: Channels = IMAGENET_MEAN,
        std: tuple[Positive, Positive, Positive] = IMAGENET_STD,
    ) -> None:
        if not 0.0 < crop_fraction <= 1.0:
            raise ConfigError(f"crop_fraction is {crop_fraction}; it lies in (0, 1], e.g. crop_fraction=0.875")
        self.crop_fraction = crop_fraction
        self.interpolation: Interpolation = interpolation
        self.mean = channels(mean)
        self.std = channels(std)

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Params:
        """Nothing is random."""
        return {}

    def worker(self, picture: Image.Image, params: Mapping[str, Any], size: int) -> NDArray[np.uint8]:
        """Resized and centre cropped: uint8 [3, size, size]."""
        resized = resize_short_side(picture, int(size / self.crop_fraction), self.interpolation)
        left, top = (round((length - size) / 2.0) for length in resized.size)
        return to_array(resized.crop((left, top, left + size, top + size)))

    def collate(self, params: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Nothing to ship."""
        return {}

    @torch.no_grad()
    def device(self, pictures: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """uint8 to normalised float32, same shape [B, 3, H, W]."""
        return color.normalise_(color.to_float(pictures), self.mean, self.std)


class WorkerTransform:
    """Any callable as a transform: torchvision v2, OpenCV, your own code.

    The function runs in the worker while the global generators of Python, NumPy and torch (CPU) are seeded from
    the sample's own generator; they are restored afterwards. A library that keeps a generator of its own
    has to be seeded by the function, from one of those three.

    Args:
        function: takes an RGB picture and returns a view of the requested size: a Pillow picture, an array
            [H, W, 3] or a tensor [3, H, W]. uint8 is normalised on the device; floats are taken as finished.
        mean, std: normalisation per channel, for pictures in [0, 1].
    """

    def __init__(
        self,
        function: Callable[[Image.Image], Any],
        *,
        mean: Channels = IMAGENET_MEAN,
        std: tuple[Positive, Positive, Positive] = IMAGENET_STD,
    ) -> None:
        self.function = function
        self.mean = channels(mean)
        self.std = channels(std)

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Params:
        """The seed (32 bits) of everything that the function draws."""
        return {"seed": int(rng.integers(2**32))}

    def worker(self, picture: Image.Image, params: Mapping[str, Any], size: int) -> NDArray[Any]:
        """What the function returns, as uint8 or float32 [3, size, size].

        Raises:
            DataError: it has another shape or type.
        """
        with _seeded(params["seed"]):
            view = _as_array(self.function(picture))
        if view.shape != (3, size, size) or view.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"the transform {self.function!r} gave {view.dtype} of shape {tuple(view.shape)}; this view needs uint8 "
                f"or float of shape (3, {size}, {size}): end it with a resize to {size}, or set the view's size"
            )
        return view

    def collate(self, params: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Nothing to ship."""
        return {}

    @torch.no_grad()
    def device(self, pictures: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Normalised float32 [B, 3, H, W]; float pictures pass unchanged."""
        if pictures.is_floating_point():
            return pictures.float()
        return color.normalise_(color.to_float(pictures), self.mean, self.std)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    # Not torch.manual_seed, which would touch the accelerators' generators too.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


def _as_array(view: Any) -> NDArray[Any]:
    if isinstance(view, Image.Image):
        return to_array(to_rgb(view))
    if isinstance(view, Tensor):
        array = view.detach().cpu().numpy()
    else:
        array = np.asarray(view)
        if array.ndim == 3 and array.shape[-1] == 3:
            array = array.transpose(2, 0, 1)
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    return np.ascontiguousarray(array)
