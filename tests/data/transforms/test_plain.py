"""Evaluation views and the escape hatch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from lgrep.data.transforms import EvalRecipe, WorkerTransform, render
from lgrep.errors import ConfigError, DataError


def rng(key: int = 0) -> np.random.Generator:
    return np.random.default_rng(key)


@pytest.mark.parametrize(("fraction", "resized"), [(0.875, 64), (1.0, 56), (0.9, 62)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("turn", [0, 90])
def test_evaluation_view_equals_torchvision(
    photo: Image.Image, fraction: float, resized: int, interpolation: Any, turn: int
) -> None:
    picture = photo.rotate(turn, expand=True)
    recipe = EvalRecipe(crop_fraction=fraction, interpolation=interpolation)
    mode = reference.InterpolationMode(interpolation)
    crop = reference.center_crop(reference.resize(picture, [resized], mode, antialias=True), [56, 56])
    expected = reference.to_dtype(reference.pil_to_tensor(crop), torch.float32, scale=True)
    expected = reference.normalize(expected, list(recipe.mean), list(recipe.std))
    torch.testing.assert_close(render(recipe, picture, rng(), 56), expected, atol=1e-5, rtol=0.0)


def test_evaluation_draws_nothing(photo: Image.Image) -> None:
    generator = rng()
    assert EvalRecipe().draw(generator, 9, 9) == {}
    assert generator.random() == rng().random()


def test_crop_fraction_is_checked() -> None:
    with pytest.raises(ConfigError, match="crop_fraction is 1.5"):
        EvalRecipe(crop_fraction=1.5)


AUGMENT = v2.Compose([v2.RandomResizedCrop(32), v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomHorizontalFlip()])


def noisy(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture.resize((32, 32)), float) / 255
    return pixels + np.random.rand() + random.random()


@pytest.mark.parametrize("function", [AUGMENT, noisy])
def test_any_callable_is_reproducible_under_its_key(photo: Image.Image, function: Any) -> None:
    transform = WorkerTransform(function)
    first = render(transform, photo, rng(1), 32)
    torch.manual_seed(99), np.random.seed(99), random.seed(99)
    assert torch.equal(render(transform, photo, rng(1), 32), first)
    assert not torch.equal(render(transform, photo, rng(2), 32), first)


def test_global_generators_are_restored_also_after_an_error(photo: Image.Image) -> None:
    def failing(picture: Image.Image) -> None:
        random.random(), np.random.rand(), torch.rand(())
        raise RuntimeError("broken")

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    with pytest.raises(RuntimeError, match="broken"):
        render(WorkerTransform(failing), photo, rng(), 32)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


@pytest.mark.parametrize("kind", ["pillow", "array", "tensor", "grey"])
def test_uint8_results_are_normalised_on_the_device(photo: Image.Image, kind: str) -> None:
    small = photo.resize((16, 16)).convert("L" if kind == "grey" else "RGB")
    convert = {"pillow": lambda p: p, "grey": lambda p: p, "array": np.asarray, "tensor": reference.pil_to_tensor}[kind]
    view = render(WorkerTransform(lambda picture: convert(small), mean=(0.5,) * 3, std=(0.25,) * 3), photo, rng(), 16)
    expected = (reference.pil_to_tensor(small.convert("RGB")) / 255 - 0.5) / 0.25
    torch.testing.assert_close(view, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_float_results_pass_unchanged(photo: Image.Image, dtype: torch.dtype) -> None:
    result = torch.linspace(-3, 3, 3 * 16).reshape(3, 4, 4).to(dtype)
    assert torch.equal(render(WorkerTransform(lambda picture: result), photo, rng(), 4), result.float())


@pytest.mark.parametrize("result", [np.zeros((8, 9, 3), np.uint8), torch.zeros(1, 8, 8), torch.zeros(3, 8, 8).long()])
def test_other_shapes_and_types_are_refused(photo: Image.Image, result: Any) -> None:
    with pytest.raises(DataError, match=r"needs uint8 or float of shape \(3, 8, 8\)"):
        render(WorkerTransform(lambda picture: result), photo, rng(), 8)
