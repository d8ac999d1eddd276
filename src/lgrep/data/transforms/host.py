"""The augmentation of one picture on the CPU, by OpenCV: the same operations as the batched ones, several times faster.

All agree with torchvision's float path, and with `color` and `blur`, to 1e-5.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lgrep.data.transforms.color import BRIGHTNESS, CONTRAST, HUE, LUMA, SATURATION

cv2.setNumThreads(0)  # loading processes share the cores, and OpenCV's threads do not survive a fork
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)
_GREY = np.tile(np.array(LUMA), (3, 1))
_EYE = np.eye(3)
_TAIL = 5.0  # standard deviations; the weight beyond is below 1e-6
_held = threading.local()


class Canvas:
    """A picture being augmented: float32 [H, W, 3] in [0, 1], in two buffers that stay in the processor's cache.

    Attributes:
        pixels: the picture as it is now; the buffer changes with every operation.
    """

    def __init__(self, height: int, width: int) -> None:
        self.pixels: Any = np.empty((height, width, 3), dtype=np.float32)  # OpenCV's stubs know no element types
        self._spare: Any = np.empty_like(self.pixels)

    def load(self, view: NDArray[np.uint8], flip: bool = False) -> None:
        """Take uint8 [3, H, W] in any memory order, mirrored left to right if `flip`."""
        pixels = np.ascontiguousarray(view.transpose(1, 2, 0))
        cv2.LUT(cv2.flip(pixels, 1) if flip else pixels, _UNIT, dst=self.pixels)

    def jitter(self, factors: Sequence[float], order: Sequence[int], shift_hue: bool = True) -> None:
        """Brightness, contrast, saturation and hue in the given order; see `color.jitter_`.

        Args:
            factors: brightness, contrast and saturation factors and the hue shift in turns.
            order: of these four.
            shift_hue: False leaves the hue step out.
        """
        for operation in order:
            factor = factors[operation]
            if operation == BRIGHTNESS:
                np.multiply(self.pixels, np.float32(factor), out=self.pixels)
                self._clip()
            elif operation == CONTRAST:
                mean = float(np.dot(LUMA, cv2.mean(self.pixels)[:3]))
                self._affine(factor * _EYE, (1.0 - factor) * mean)
                self._clip()
            elif operation == SATURATION:
                self._affine(factor * _EYE + (1.0 - factor) * _GREY)
                self._clip()
            elif operation == HUE and shift_hue:
                self.hue(factor)

    def hue(self, shift: float) -> None:
        """Turn the hue by `shift` turns, value and saturation of HSV kept."""
        degrees: Any = (360.0 * (shift - math.floor(shift)), 0.0, 0.0, 0.0)
        cv2.cvtColor(self.pixels, cv2.COLOR_RGB2HSV, dst=self._spare)
        cv2.add(self._spare, degrees, dst=self._spare)
        cv2.cvtColor(self._spare, cv2.COLOR_HSV2RGB, dst=self.pixels)  # takes hues beyond 360 degrees, but none below 0

    def grayscale(self) -> None:
        """The luma in all three channels."""
        self._affine(_GREY)

    def blur(self, sigma: float, radius: int) -> None:
        """Gaussian blur of standard deviation `sigma` pixels with at most `radius` taps on each side; see `blur.blur_`.

        Taps beyond five standard deviations, which are zero to the seventh place, are left out.
        """
        reach = min(radius, math.ceil(_TAIL * sigma))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = (taps / taps.sum()).astype(np.float32)
        # Mirrored, the edge pixel not repeated.
        cv2.sepFilter2D(self.pixels, -1, kernel, kernel, dst=self._spare, borderType=cv2.BORDER_REFLECT_101)
        self._swap()

    def solarise(self, threshold: float) -> None:
        """Every value at or above `threshold` inverted."""
        np.subtract(np.float32(1.0), self.pixels, out=self._spare)
        cv2.copyTo(self._spare, (self.pixels >= np.float32(threshold)).view(np.uint8), dst=self.pixels)

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """`(x - mean) / std` per channel."""
        scale = 1.0 / np.asarray(std, dtype=np.float64)
        self._affine(np.diag(scale), -np.asarray(mean, dtype=np.float64) * scale)

    def write(self, out: NDArray[np.float32]) -> None:
        """Copy the picture to `out` [3, H, W]."""
        cv2.split(self.pixels, list(out))

    def _affine(self, matrix: NDArray[Any], offset: float | NDArray[Any] = 0.0) -> None:
        """`matrix @ x + offset` for every pixel x."""
        weights = np.empty((3, 4), dtype=np.float32)
        weights[:, :3], weights[:, 3] = matrix, offset
        cv2.transform(self.pixels, weights, dst=self._spare)
        self._swap()

    def _clip(self) -> None:
        np.clip(self.pixels, np.float32(0.0), np.float32(1.0), out=self.pixels)

    def _swap(self) -> None:
        self.pixels, self._spare = self._spare, self.pixels


def canvas(height: int, width: int) -> Canvas:
    """This thread's canvas of that size; it is used again by the next picture."""
    held: dict[tuple[int, int], Canvas] = _held.__dict__.setdefault("canvases", {})
    if (height, width) not in held:
        held[height, width] = Canvas(height, width)
    return held[height, width]


def listed(params: Mapping[str, Tensor], count: int) -> list[dict[str, Any]]:
    """Collated parameters of `count` pictures, picture by picture, as far as a canvas needs them."""

    def chosen(*names: str) -> set[int]:
        return {place for name in names if name in params for place in params[name].tolist()}

    def column(name: str) -> list[Any]:
        return params[name].tolist() if name in params else [None] * count

    flip, grayscale, blurred, inverted = (chosen(f"{name}_index") for name in ("flip", "grayscale", "blur", "solarise"))
    jitter = chosen(*(f"hue{position}_index" for position in range(4)))
    columns = zip(column("factors"), column("order"), column("sigma"), strict=True)
    return [
        {
            "flip": i in flip,
            "jitter": i in jitter,
            "factors": factors,
            "order": order,
            "grayscale": i in grayscale,
            "sigma": sigma if i in blurred else 0.0,
            "solarise": i in inverted,
        }
        for i, (factors, order, sigma) in enumerate(columns)
    ]
