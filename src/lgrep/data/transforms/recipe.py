"""The augmentation recipe of SimCLR and its descendants, with every random choice drawn up front."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from lgrep.data.transforms import color, host
from lgrep.data.transforms.base import IMAGENET_MEAN, IMAGENET_STD, Channels, Params, channels
from lgrep.data.transforms.blur import blur_, kernel_radius
from lgrep.data.transforms.crop import (
    CROP_DRAWS,
    Interpolation,
    Picture,
    as_image,
    as_pixels,
    cut,
    random_crop_box,
    reduced_box,
    resize_pixels,
    resize_pixels_short_side,
    resize_short_side,
    resized_crop,
    short_side_size,
    to_array,
)
from lgrep.errors import ConfigError

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]

_ORDERS = tuple(itertools.permutations(range(4)))
_NO_JITTER = (1.0, 1.0, 1.0, 0.0)
_OTHER_DRAWS = 13


class Recipe:
    """Random crop, flip, colour jitter, grey, blur and solarise of one picture.

    Order: (downsample) -> crop and resize in the worker -> flip -> jitter in random order -> grey -> blur ->
    solarise -> normalise on the device. The defaults are StableRep's strong recipe (arXiv 2306.00984); SimCLR
    (arXiv 2002.05709) has twice the jitter. Probabilities of 0 cost nothing.

    Args:
        crop_scale: least and greatest share of the area that is cropped.
        crop_ratio: least and greatest width / height of the crop.
        interpolation: of the final resize; always antialiased.
        resize: `fast` (torch, within one grey level of Pillow) or `pillow`, the reference.
        flip: probability of mirroring left to right.
        jitter: probability of the colour jitter.
        brightness, contrast, saturation: factors are uniform in [max(0, 1 - s), 1 + s].
        hue: shifts are uniform in [-hue, hue] turns.
        grayscale: probability of dropping the colour.
        blur: probability of the Gaussian blur.
        blur_sigma: least and greatest standard deviation in pixels of the view.
        solarise: probability of inverting values at or above `solarise_threshold`.
        solarise_threshold: in [0, 1].
        downsample: probability that the picture first loses resolution (StableRep's bridge to
            low-resolution data): its short side is resized to one of `downsample_resolutions`,
            then to `downsample_restore`; the crop is taken from the result.
        downsample_resolutions: pixels of the short side.
        downsample_weights: relative frequency of each resolution; equal when absent.
        downsample_restore: pixels of the short side afterwards.
        mean, std: normalisation per channel, for pictures in [0, 1].

    Raises:
        ConfigError: a range is the wrong way round, or the weights do not fit the resolutions.
    """

    takes_arrays = True

    def __init__(
        self,
        *,
        crop_scale: tuple[Probability, Probability] = (0.08, 1.0),
        crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        resize: Literal["fast", "pillow"] = "fast",
        flip: Probability = 0.5,
        jitter: Probability = 0.8,
        brightness: Strength = 0.4,
        contrast: Strength = 0.4,
        saturation: Strength = 0.4,
        hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1,
        grayscale: Probability = 0.2,
        blur: Probability = 0.5,
        blur_sigma: tuple[Positive, Positive] = (0.1, 2.0),
        solarise: Probability = 0.0,
        solarise_threshold: Probability = 0.5,
        downsample: Probability = 0.0,
        downsample_resolutions: tuple[Pixels, ...] = (64, 128),
        downsample_weights: tuple[Strength, ...] | None = None,
        downsample_restore: Pixels = 256,
        mean: Channels = IMAGENET_MEAN,
        std: tuple[Positive, Positive, Positive] = IMAGENET_STD,
    ) -> None:
        self.crop_scale = _ascending("crop_scale", crop_scale)
        self.crop_ratio = _ascending("crop_ratio", crop_ratio)
        self.interpolation: Interpolation = interpolation
        self.resize = resize
        self.flip, self.jitter, self.grayscale, self.blur, self.solarise = flip, jitter, grayscale, blur, solarise
        self.strengths = (float(brightness), float(contrast), float(saturation), float(hue))
        self.blur_sigma = _ascending("blur_sigma", blur_sigma)
        self.blur_radius = kernel_radius(self.blur_sigma[1])
        self.solarise_threshold = solarise_threshold
        self.downsample, self.downsample_restore = downsample, downsample_restore
        self.downsample_resolutions = tuple(downsample_resolutions)
        self._downsample_steps = _cumulative(self.downsample_resolutions, downsample_weights)
        self.mean = channels(mean)
        self.std = channels(std)

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Params:
        """Every random choice for one view: always the same number of draws, in the same order.

        Returns:
            `downsample` (short side in pixels, 0 = no), `box` (top, left, height, width, in pixels of the picture
            that is cropped), `flip`, `jitter`, `grayscale`, `solarise` (0 or 1), `factors` (brightness, contrast,
            saturation, hue), `order` (of these four), `sigma` (0 = no blur).
        """
        uniforms = rng.random(CROP_DRAWS + _OTHER_DRAWS).tolist()
        (flip, jitter, bright, contrast, saturation, hue, order, grey, blur, sigma, solarise, down, resolution) = (
            uniforms[CROP_DRAWS:]
        )
        short = 0
        if down < self.downsample:
            short = self.downsample_resolutions[bisect_right(self._downsample_steps, resolution)]
            width, height = short_side_size(*short_side_size(width, height, short), self.downsample_restore)
        jittered = jitter < self.jitter
        low, high = self.blur_sigma
        return {
            "downsample": short,
            "box": random_crop_box(uniforms[:CROP_DRAWS], width, height, self.crop_scale, self.crop_ratio),
            "flip": int(flip < self.flip),
            "jitter": int(jittered),
            "factors": self._factors(bright, contrast, saturation, hue) if jittered else _NO_JITTER,
            "order": _ORDERS[int(order * 24)],
            "grayscale": int(grey < self.grayscale),
            "sigma": low + (high - low) * sigma if blur < self.blur else 0.0,
            "solarise": int(solarise < self.solarise),
        }

    def _factors(self, *uniforms: float) -> tuple[float, ...]:
        *blends, hue = self.strengths
        factors = []
        for strength, uniform in zip(blends, uniforms, strict=False):
            low = max(0.0, 1.0 - strength)
            factors.append(low + (1.0 + strength - low) * uniform)
        return (*factors, hue * (2.0 * uniforms[3] - 1.0))

    def reducible(self, params: Mapping[str, Any], size: int) -> float:
        """By what the picture's sides may be divided beforehand, so that the crop keeps `size` pixels a side."""
        return 1.0 if params["downsample"] else min(params["box"][2:]) / size

    def reduced(self, params: Mapping[str, Any], scale: int, width: int, height: int) -> Params:
        """The same choices for the picture of `width` x `height` that is left of one `scale` times as large."""
        return {**params, "box": reduced_box(params["box"], scale, width, height)}

    def worker(self, picture: Picture, params: Mapping[str, Any], size: int) -> NDArray[np.uint8]:
        """Downsampled if drawn so, cropped and resized: uint8 [3, size, size]."""
        # Downsampled from the original each time, as StableRep does: two antialiased bilinear resizes.
        if self.resize == "pillow":
            image = as_image(picture)
            if params["downsample"]:
                image = resize_short_side(image, params["downsample"])
                image = resize_short_side(image, self.downsample_restore)
            return to_array(resized_crop(image, params["box"], size, self.interpolation))
        pixels = as_pixels(picture)
        if params["downsample"]:
            pixels = resize_pixels_short_side(pixels, params["downsample"])
            pixels = resize_pixels_short_side(pixels, self.downsample_restore)
        # Transposed without a copy: whoever turns it into floats does that in passing.
        return resize_pixels(cut(pixels, params["box"]), size, size, self.interpolation).transpose(2, 0, 1)

    def collate(self, params: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Tensors for `device`; operations that the recipe never applies ship nothing.

        Returns:
            `box` Long [B, 4]; `factors` [B, 4], `order` Long [B, 4] and `hue0_index` ... `hue3_index` (jittered
            pictures by the position of their hue step); `sigma` [B]; `flip_index`, `grayscale_index`,
            `blur_index`, `solarise_index`.
        """
        tensors = {"box": torch.tensor([entry["box"] for entry in params])}
        for name in ("flip", "grayscale", "solarise"):
            if getattr(self, name) > 0:
                tensors[f"{name}_index"] = _positions(np.array([entry[name] for entry in params]))
        if self.jitter > 0:
            order = np.array([entry["order"] for entry in params])
            tensors["factors"] = torch.tensor([entry["factors"] for entry in params])
            tensors["order"] = torch.from_numpy(order)
            hue_steps = (order == color.HUE) & np.array([entry["jitter"] for entry in params], dtype=bool)[:, None]
            for position in range(4):
                tensors[f"hue{position}_index"] = _positions(hue_steps[:, position])
        if self.blur > 0:
            sigma = np.array([entry["sigma"] for entry in params], dtype=np.float32)
            tensors["sigma"] = torch.from_numpy(sigma)
            tensors["blur_index"] = _positions(sigma)
        return tensors

    @torch.no_grad()
    def device(self, pictures: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Flip, jitter, grey, blur, solarise and normalise: uint8 [B, 3, H, W] to float32 of the same shape."""
        if pictures.device.type == "cpu":
            return self._one_by_one(pictures, params)
        return self.batched(pictures, params)

    @torch.no_grad()
    def batched(self, pictures: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """What `device` does on an accelerator: every operation on all its pictures at once."""
        pictures = pictures.contiguous()
        if self.flip > 0:
            pictures = color.flip_(pictures.clone(), params["flip_index"])
        views = color.to_float(pictures)
        if self.jitter > 0:
            hue_index = [params[f"hue{position}_index"] for position in range(4)]
            color.jitter_(views, params["factors"], params["order"], hue_index, shift_hue=self.strengths[3] > 0)
        if self.grayscale > 0:
            color.grayscale_(views, params["grayscale_index"])
        if self.blur > 0:
            blur_(views, params["blur_index"], params["sigma"], self.blur_radius)
        if self.solarise > 0:
            color.solarise_(views, params["solarise_index"], self.solarise_threshold)
        return color.normalise_(views, self.mean, self.std)

    def finish(self, view: NDArray[np.uint8], params: Mapping[str, Any]) -> NDArray[np.float32]:
        """What `device` does on the CPU with one view [3, H, W] and its drawn parameters, to the bit."""
        result = np.empty(view.shape, dtype=np.float32)
        self._finish(view, params, result)
        return result

    def _finish(self, view: NDArray[np.uint8], params: Mapping[str, Any], out: NDArray[np.float32]) -> None:
        canvas = host.canvas(*out.shape[1:])
        canvas.load(view, bool(params["flip"]))
        if params["jitter"]:
            factors = np.asarray(params["factors"], dtype=np.float32).tolist()  # as they are shipped
            canvas.jitter(factors, params["order"], shift_hue=self.strengths[3] > 0)
        if params["grayscale"]:
            canvas.grayscale()
        if params["sigma"]:
            canvas.blur(float(np.float32(params["sigma"])), self.blur_radius)
        if params["solarise"]:
            canvas.solarise(self.solarise_threshold)
        canvas.normalise(self.mean, self.std)
        canvas.write(out)

    def _one_by_one(self, pictures: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        result = torch.empty(pictures.shape, dtype=torch.float32)
        for view, entry, out in zip(pictures.numpy(), host.listed(params, len(pictures)), result.numpy(), strict=True):
            self._finish(view, entry, out)
        return result


def _positions(chosen: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen))


def _ascending(name: str, values: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(value) for value in values)
    if not 0.0 < low <= high:
        raise ConfigError(f"{name} is [{low}, {high}]; it takes 0 < least <= greatest, e.g. {name}=[0.5,1.0]")
    return low, high


def _cumulative(resolutions: Sequence[int], weights: Sequence[float] | None) -> list[float]:
    shares = [1.0] * len(resolutions) if weights is None else [float(weight) for weight in weights]
    if not resolutions or len(shares) != len(resolutions) or sum(shares) <= 0.0 or min(shares) < 0.0:
        raise ConfigError(
            f"downsample_weights={weights} do not fit downsample_resolutions={tuple(resolutions)}: one weight >= 0 for "
            "each resolution, not all 0, e.g. downsample_resolutions=[64,128] downsample_weights=[1,1]"
        )
    steps = np.cumsum(shares) / sum(shares)
    return [float(step) for step in steps[:-1]]  # beyond the last inner step lies the last resolution
