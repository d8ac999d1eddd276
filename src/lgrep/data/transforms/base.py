"""What every transform offers: parameters drawn once, pixels moved in the worker, the rest on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    A transform may offer more, which is used where it is there: `takes_arrays = True` (`worker` takes arrays
    [H, W, 3] besides Pillow's pictures), `finish(view, params)` (what `device` does, for one view on the CPU), and
    `reducible` with `reduced` (smaller pictures will do; see `Recipe`).

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


@contextmanager
def augmenting(device: torch.device) -> Iterator[None]:
    """Float32 whatever the training's precision; on the CPU one thread, which many small operations prefer."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    if device.type == "cpu" and threads != 1:
        torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def finish_view(transform: Transform, view: NDArray[Any], params: Mapping[str, Any]) -> NDArray[np.float32]:
    """What `transform.device` does with one worker's view, on the CPU: normalised float32 [3, size, size]."""
    finish = getattr(transform, "finish", None)
    if finish is not None:
        result: NDArray[np.float32] = finish(view, params)
        return result
    with augmenting(torch.device("cpu")):
        batch = transform.device(torch.from_numpy(view).unsqueeze(0), transform.collate([params]))
        return np.asarray(batch.squeeze(0))


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
