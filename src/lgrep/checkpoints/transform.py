"""From a picture to what an encoder was trained to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lgrep.data.pictures import to_rgb
from lgrep.data.transforms import IMAGENET_MEAN, IMAGENET_STD

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class EvaluationTransform:
    """PIL picture -> float32 Tensor [3, size, size]; picklable.

    Any mode is taken (transparency on white, EXIF orientation applied), the shorter side is resized to
    `size` with Pillow's filter (which antialiases), the centre is cropped and channels are normalised.

    Attributes:
        size: side in pixels.
        mean, std: per channel, of values in [0, 1].
        interpolation: "bilinear", "bicubic", "lanczos" or "nearest".
    """

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __call__(self, picture: Image.Image) -> Tensor:
        rgb = to_rgb(ImageOps.exif_transpose(picture))
        scale = self.size / min(rgb.size)
        width, height = (max(self.size, round(side * scale)) for side in rgb.size)
        if (width, height) != rgb.size:
            rgb = rgb.resize((width, height), FILTERS[self.interpolation])
        left, top = (width - self.size) // 2, (height - self.size) // 2
        rgb = rgb.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float().div_(255)
        return (pixels - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def library_transform(encoder: nn.Module, image_size: int | None) -> EvaluationTransform:
    """The library's picture settings (timm's `pretrained_cfg`, open_clip's), without its crop margin; else ImageNet's."""
    settings: Mapping[str, Any] = getattr(encoder, "pretrained_cfg", None) or getattr(encoder, "preprocess_cfg", {})
    mean, std = settings.get("mean") or IMAGENET_MEAN, settings.get("std") or IMAGENET_STD
    interpolation = str(settings.get("interpolation", "bilinear"))
    return EvaluationTransform(
        image_size or _side(settings),
        tuple(getattr(encoder, "image_mean", mean)),
        tuple(getattr(encoder, "image_std", std)),
        interpolation if interpolation in FILTERS else "bilinear",
    )


def _side(settings: Mapping[str, Any]) -> int:
    size = settings.get("size", settings.get("input_size", 224))
    return int(size[-1] if isinstance(size, (list, tuple)) else size)
