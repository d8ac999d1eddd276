"""timm's training transform for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageOps
from timm.data import create_transform

from lgrep.evaluation.features import Transform
from lgrep.evaluation.finetuning import Recipe


def training_transform(
    size: int, mean: tuple[float, ...], std: tuple[float, ...], interpolation: str, recipe: Recipe
) -> Transform:
    """Random crop, flip, RandAugment and erasing of timm, normalised like the encoder's own pictures."""
    made: Transform = create_transform(
        size,
        is_training=True,
        scale=(recipe.crop_scale, 1.0),
        color_jitter=None,
        auto_augment=recipe.randaugment or None,
        interpolation=interpolation,
        re_prob=recipe.erase,
        mean=mean,
        std=std,
    )
    for operation in _operations(made):
        if str(operation.name).startswith("Posterize"):
            operation.aug_fn = _posterize
    return made


def _operations(made: Any) -> Iterator[Any]:
    """The operations of timm's RandAugment, AugMix and AutoAugment."""
    for step in made.transforms:
        yield from getattr(step, "ops", ())
        for policy in getattr(step, "policy", ()):
            yield from policy


def _posterize(picture: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Strong noise of the magnitude asks for no bits at all, which Pillow no longer takes: nothing is left of the picture."""
    if bits >= 8:
        return picture
    return ImageOps.posterize(picture, bits) if bits >= 1 else Image.new(picture.mode, picture.size)
