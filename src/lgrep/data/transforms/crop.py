"""Geometry in the worker: crop boxes, resizing and the step from Pillow to an array.

Pictures are Pillow's or arrays [H, W, 3]. Arrays are resized by torch's antialiased uint8 kernels, which are four times
as fast as Pillow's and differ from them by at most one grey level (Pillow 13 takes the vertical direction first when that
is cheaper; where a bicubic overshoot is clamped in between, the order shows, and torch keeps to the order of Pillow 12).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Box: TypeAlias = tuple[int, int, int, int]
Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Picture: TypeAlias = Image.Image | NDArray[np.uint8]  # an array is [H, W, 3]

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CROP_TRIES = 10
CROP_DRAWS = 2 * CROP_TRIES + 2


def random_crop_box(
    uniforms: Sequence[float], width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """The box (top, left, height, width) of a random resized crop, by torchvision's rule.

    Ten times a share of the area (uniform) and an aspect ratio (log-uniform) are tried; the first box that
    fits is placed uniformly. If none fits, the box is the largest central one of an allowed ratio.

    Args:
        uniforms: `CROP_DRAWS` numbers in [0, 1): (area, ratio) for each try, then the place (top, left).
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        scale: least and greatest share of the picture's area.
        ratio: least and greatest width / height.
    """
    area = width * height
    low, span = math.log(ratio[0]), math.log(ratio[1]) - math.log(ratio[0])
    for i in range(0, 2 * CROP_TRIES, 2):
        target = area * (scale[0] + (scale[1] - scale[0]) * uniforms[i])
        aspect = math.exp(low + span * uniforms[i + 1])
        w = round(math.sqrt(target * aspect))
        h = round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniforms[-2] * (height - h + 1))
            left = int(uniforms[-1] * (width - w + 1))
            return top, left, h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def short_side_size(width: int, height: int, short: int) -> tuple[int, int]:
    """(width, height) after resizing the short side to `short` pixels; the long side is rounded down."""
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def resize_short_side(picture: Image.Image, short: int, interpolation: Interpolation = "bilinear") -> Image.Image:
    """The picture resized, antialiased, so that its short side has `short` pixels."""
    return picture.resize(short_side_size(*picture.size, short), RESAMPLING[interpolation])


def resized_crop(picture: Image.Image, box: Box, size: int, interpolation: Interpolation) -> Image.Image:
    """The box cut out, then resized to `size` x `size`, antialiased."""
    top, left, height, width = box
    # Cutting first matters: resize(box=...) would let pixels beyond the box bleed in.
    return picture.crop((left, top, left + width, top + height)).resize((size, size), RESAMPLING[interpolation])


def resize_pixels(
    pixels: NDArray[np.uint8], width: int, height: int, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """An array [H, W, 3] resized, antialiased, within one grey level of Pillow: [height, width, 3], contiguous.

    Args:
        pixels: read only; a contiguous copy is made where needed.
        width, height: in pixels.
        interpolation: kernel.
    """
    # The batch axis comes first and is not permuted: else torch takes the slower path of planar pictures.
    batch = torch.from_numpy(np.array(pixels, order="C"))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        batch, (height, width), mode=interpolation, align_corners=False, antialias=True
    )
    result: NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return result


def resize_pixels_short_side(
    pixels: NDArray[np.uint8], short: int, interpolation: Interpolation = "bilinear"
) -> NDArray[np.uint8]:
    """`resize_short_side` of an array."""
    height, width = pixels.shape[:2]
    return resize_pixels(pixels, *short_side_size(width, height, short), interpolation)


def cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The box of an array [H, W, 3], without a copy."""
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def reduced_box(box: Box, scale: int, width: int, height: int) -> Box:
    """The box in a picture of `width` x `height` pixels whose sides are those of the box's picture / scale."""
    (top, bottom), (left, right) = (
        _reduced(start, length, scale, whole)
        for start, length, whole in ((box[0], box[2], height), (box[1], box[3], width))
    )
    return top, left, bottom - top, right - left


def _reduced(start: int, length: int, scale: int, whole: int) -> tuple[int, int]:
    first = min(round(start / scale), whole - 1)
    return first, min(max(round((start + length) / scale), first + 1), whole)


def as_pixels(picture: Picture) -> NDArray[np.uint8]:
    """An RGB picture as uint8 [H, W, 3]."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture)


def as_image(picture: Picture) -> Image.Image:
    """An RGB picture as Pillow's."""
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture


def to_array(picture: Image.Image) -> NDArray[np.uint8]:
    """An RGB picture as uint8 [3, H, W], contiguous and writable."""
    return np.asarray(picture).transpose(2, 0, 1).copy()
