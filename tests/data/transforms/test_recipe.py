"""The recipe as a whole: the same chain as torchvision's, the same distributions, reproducible and batch-proof."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from lgrep.data.transforms import Recipe, render
from lgrep.data.transforms.crop import RESAMPLING, reduced_box, resize_pixels
from lgrep.errors import ConfigError

BUSY: dict[str, Any] = {"solarise": 0.3, "downsample": 0.3, "downsample_resolutions": (24, 40)}


def generator(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[key, 0]))


def draw(recipe: Recipe, picture: Image.Image, count: int) -> list[dict[str, Any]]:
    return [recipe.draw(generator(i), *picture.size) for i in range(count)]


def batch(recipe: Recipe, picture: Image.Image, params: list[dict[str, Any]], size: int) -> Tensor:
    return torch.from_numpy(np.stack([recipe.worker(picture, entry, size) for entry in params]))


def by_torchvision(recipe: Recipe, picture: Image.Image, params: Mapping[str, Any], size: int) -> Tensor:
    """The chain one torchvision call at a time, from the same parameters."""
    if params["downsample"]:
        for short in (params["downsample"], recipe.downsample_restore):
            picture = reference.resize(picture, [short], reference.InterpolationMode.BILINEAR, antialias=True)
    mode = reference.InterpolationMode(recipe.interpolation)
    view = reference.pil_to_tensor(reference.resized_crop(picture, *params["box"], [size, size], mode))
    view = reference.to_dtype(view, torch.float32, scale=True)
    if params["flip"]:
        view = reference.horizontal_flip(view)
    if params["jitter"]:
        names = ("brightness", "contrast", "saturation", "hue")
        for operation in params["order"]:
            view = getattr(reference, f"adjust_{names[operation]}")(view, params["factors"][operation])
    if params["grayscale"]:
        view = reference.rgb_to_grayscale(view, 3)
    if params["sigma"]:
        view = reference.gaussian_blur(view, [2 * recipe.blur_radius + 1] * 2, [params["sigma"]] * 2)
    if params["solarise"]:
        view = reference.solarize(view, recipe.solarise_threshold)
    return reference.normalize(view, list(recipe.mean), list(recipe.std))


@pytest.mark.parametrize(("interpolation", "size"), [("bilinear", 48), ("bicubic", 33)])
@pytest.mark.parametrize("way", ["device", "batched"])
def test_whole_chain_equals_torchvision(photo: Image.Image, interpolation: Any, size: int, way: str) -> None:
    recipe = Recipe(interpolation=interpolation, resize="pillow", **BUSY)
    params = draw(recipe, photo, 48)
    assert all({bool(entry[name]) for entry in params} == {True, False} for name in ("downsample", "solarise", "sigma"))
    result = getattr(recipe, way)(batch(recipe, photo, params, size), recipe.collate(params))
    assert result.dtype == torch.float32
    for view, entry in zip(result, params, strict=True):
        # Up to four operations, each within 1e-6 or so, then divided by a standard deviation of 0.22.
        torch.testing.assert_close(view, by_torchvision(recipe, photo, entry, size), atol=2e-5, rtol=0.0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_worker_equals_torchvision_to_the_bit(photo: Image.Image, interpolation: Any) -> None:
    recipe = Recipe(interpolation=interpolation, resize="pillow")
    for entry in draw(recipe, photo, 40):
        mode = reference.InterpolationMode(interpolation)
        expected = reference.pil_to_tensor(reference.resized_crop(photo, *entry["box"], [32, 32], mode))
        assert torch.equal(torch.from_numpy(recipe.worker(photo, entry, 32)), expected)


def test_the_same_key_gives_the_same_view(photo: Image.Image) -> None:
    recipe, again = Recipe(**BUSY), pickle.loads(pickle.dumps(Recipe(**BUSY)))
    views = [render(recipe, photo, generator(3), 40) for _ in range(2)]
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0], render(again, photo, generator(3), 40))
    assert not torch.equal(views[0], render(recipe, photo, generator(4), 40))


def test_draws_are_fixed_in_number_whatever_is_chosen(photo: Image.Image) -> None:
    states = []
    for recipe in (Recipe(), Recipe(jitter=0, blur=0, flip=0, **BUSY), Recipe(crop_scale=(1, 1), crop_ratio=(3, 3))):
        rng = generator(0)
        recipe.draw(rng, *photo.size)
        states.append(rng.random())
    assert len(set(states)) == 1


@pytest.mark.parametrize("way", ["device", "batched"])
def test_a_picture_does_not_depend_on_its_batch(photo: Image.Image, way: str) -> None:
    recipe = Recipe(**BUSY)
    apply = getattr(recipe, way)
    params = draw(recipe, photo, 40)
    pictures = batch(recipe, photo, params, 48)
    together = apply(pictures, recipe.collate(params))
    backwards = apply(pictures.flip(0), recipe.collate(params[::-1])).flip(0)
    assert torch.equal(together, backwards)
    for i, entry in enumerate(params):
        alone = apply(pictures[i : i + 1], recipe.collate([entry]))
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("changes", [{}, {"blur_sigma": (0.1, 5.0)}, {"hue": 0.0, "solarise": 0.0}, {"jitter": 0.0}])
def test_the_ways_to_augment_agree_picture_by_picture(photo: Image.Image, changes: dict[str, Any]) -> None:
    """The accelerator's batch, the CPU's pictures one by one, and a loading process with nothing but what was drawn."""
    recipe = Recipe(**{**BUSY, **changes})
    params = draw(recipe, photo, 40)
    pictures, tensors = batch(recipe, photo, params, 37), recipe.collate(params)
    one_by_one = recipe.device(pictures, tensors)
    torch.testing.assert_close(recipe.batched(pictures, tensors), one_by_one, atol=2e-5, rtol=0.0)
    finished = np.stack([recipe.finish(view, entry) for view, entry in zip(pictures.numpy(), params, strict=True)])
    assert np.array_equal(finished, one_by_one.numpy())


def test_the_memory_order_of_views_changes_nothing(photo: Image.Image) -> None:
    recipe = Recipe(**BUSY)
    params = draw(recipe, photo, 20)
    planar, tensors = batch(recipe, photo, params, 32).contiguous(), recipe.collate(params)
    interleaved = planar.contiguous(memory_format=torch.channels_last)
    for apply in (recipe.device, recipe.batched):
        result = apply(interleaved, tensors)
        assert result.is_contiguous() and torch.equal(result, apply(planar, tensors))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["photo", "noise", "black and white"])
def test_fast_resizing_is_within_one_grey_level_of_pillow(photo: Image.Image, interpolation: Any, kind: str) -> None:
    rng = generator(0)
    if kind != "photo":
        noise = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        photo = Image.fromarray(noise if kind == "noise" else (noise > 127).astype(np.uint8) * 255)
    for number in range(60):
        width, height = int(rng.integers(1, 91)), int(rng.integers(1, 71))
        size = (8, 24, 33, 96)[number % 4]
        crop = photo.crop((90 - width, 70 - height, 90, 70))
        mode = RESAMPLING[interpolation]
        # In two steps, so that the horizontal direction comes first whatever Pillow's version prefers.
        expected = np.asarray(crop.resize((size, height), mode).resize((size, size), mode), int)
        difference = np.abs(resize_pixels(np.asarray(crop), size, size, interpolation) - expected)
        assert difference.max() <= (1 if interpolation == "bilinear" else 2), (width, height, size)
        assert (difference > 1).mean() < 1e-3


def test_fast_downsampling_keeps_to_pillows(photo: Image.Image) -> None:
    arguments: dict[str, Any] = {"downsample": 1.0, "downsample_resolutions": (24, 40)}
    fast, slow = Recipe(**arguments), Recipe(resize="pillow", **arguments)
    for entry in draw(fast, photo, 20):
        difference = np.abs(fast.worker(photo, entry, 32).astype(int) - slow.worker(photo, entry, 32))
        assert difference.max() <= 3 and difference.mean() < 0.3  # three resizes, each within one


@pytest.mark.parametrize("resize", ["fast", "pillow"])
def test_arrays_and_pillows_pictures_give_the_same_view(photo: Image.Image, resize: Any) -> None:
    recipe = Recipe(resize=resize, **BUSY)
    pixels = np.asarray(photo)
    assert not pixels.flags.writeable  # as those of the cache
    for entry in draw(recipe, photo, 10):
        assert np.array_equal(recipe.worker(photo, entry, 32), recipe.worker(pixels, entry, 32))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_operations_on_none_or_all(photo: Image.Image, probability: float) -> None:
    names = ("flip", "jitter", "grayscale", "blur", "solarise", "downsample")
    recipe = Recipe(resize="pillow", **dict.fromkeys(names, probability), downsample_resolutions=(24,))
    params = draw(recipe, photo, 12)
    tensors = recipe.collate(params)
    result = recipe.device(batch(recipe, photo, params, 24), tensors)
    for view, entry in zip(result, params, strict=True):
        torch.testing.assert_close(view, by_torchvision(recipe, photo, entry, 24), atol=1e-5, rtol=0.0)
    listed = {name: len(index) for name, index in tensors.items() if name.endswith("_index") and "hue" not in name}
    expected = {f"{name}_index": 12 for name in ("flip", "grayscale", "blur", "solarise")} if probability else {}
    assert listed == expected


def test_lists_may_be_empty_by_chance(photo: Image.Image) -> None:
    recipe = Recipe(resize="pillow", solarise=0.5)
    params = [
        {**entry, "flip": 0, "jitter": 0, "factors": (1.0, 1.0, 1.0, 0.0), "grayscale": 0, "sigma": 0.0, "solarise": 0}
        for entry in draw(recipe, photo, 5)
    ]
    tensors = recipe.collate(params)
    assert all(len(index) == 0 for name, index in tensors.items() if name.endswith("_index"))
    for view, entry in zip(recipe.device(batch(recipe, photo, params, 24), tensors), params, strict=True):
        torch.testing.assert_close(view, by_torchvision(recipe, photo, entry, 24), atol=1e-5, rtol=0.0)


def test_the_input_is_not_changed(photo: Image.Image) -> None:
    recipe = Recipe(flip=1.0)
    params = draw(recipe, photo, 4)
    pictures = batch(recipe, photo, params, 24)
    kept = pictures.clone()
    recipe.device(pictures, recipe.collate(params))
    assert torch.equal(pictures, kept)


def test_the_device_stage_never_reads_values_on_the_host(photo: Image.Image) -> None:
    """Meta tensors have no values: `.item()`, boolean masks and other synchronising calls raise on them."""
    recipe = Recipe(**BUSY)
    params = draw(recipe, photo, 16)
    tensors = {name: value.to("meta") for name, value in recipe.collate(params).items()}
    result = recipe.device(batch(recipe, photo, params, 24).to("meta"), tensors)
    assert (result.shape, result.dtype, result.device.type) == ((16, 3, 24, 24), torch.float32, "meta")


def test_collated_tensors(photo: Image.Image) -> None:
    recipe = Recipe(**BUSY)
    params = draw(recipe, photo, 30)
    tensors = recipe.collate(params)
    assert {len(value) for name, value in tensors.items() if not name.endswith("_index")} == {30}
    assert all(value.dtype == torch.long for name, value in tensors.items() if name.endswith("_index"))
    assert tensors["flip_index"].tolist() == [i for i, entry in enumerate(params) if entry["flip"]]
    assert tensors["blur_index"].tolist() == [i for i, entry in enumerate(params) if entry["sigma"] > 0]
    jittered = [i for i, entry in enumerate(params) if entry["jitter"]]
    assert sorted(sum((tensors[f"hue{p}_index"].tolist() for p in range(4)), [])) == jittered
    assert tensors["box"].tolist() == [list(entry["box"]) for entry in params]


def test_downsampled_boxes_refer_to_the_enlarged_picture(photo: Image.Image) -> None:
    recipe = Recipe(downsample=1.0, downsample_resolutions=(24, 40), crop_scale=(1, 1), crop_ratio=(9 / 7, 9 / 7))
    boxes = {entry["downsample"]: entry["box"] for entry in draw(recipe, photo, 20)}
    # 90 x 70 -> 30 x 24 -> 320 x 256 and 90 x 70 -> 51 x 40 -> 326 x 256
    assert set(boxes) == {24, 40}
    assert all(abs(box[3] / box[2] - 9 / 7) < 0.01 and box[2] > 245 for box in boxes.values())


def test_downsample_weights(photo: Image.Image) -> None:
    recipe = Recipe(downsample=1.0, downsample_resolutions=(16, 24, 40), downsample_weights=(1, 0, 3))
    drawn = [entry["downsample"] for entry in draw(recipe, photo, 2000)]
    assert drawn.count(24) == 0
    assert abs(drawn.count(16) / 2000 - 0.25) < 0.04


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_scale": (1.0, 0.2)}, r"crop_scale is \[1.0, 0.2\]"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
        ({"downsample_resolutions": (64, 128), "downsample_weights": (1.0,)}, "downsample_weights=.*do not fit"),
        ({"downsample_weights": (0.0, 0.0)}, "not all 0"),
        ({"downsample_resolutions": ()}, "downsample_resolutions"),
    ],
)
def test_contradictory_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**arguments)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_boxes_of_reduced_pictures_lie_within_them(scale: int) -> None:
    rng = generator(1)
    for _ in range(300):
        width, height = (int(value) for value in rng.integers(scale, 300, 2))
        small = -(-width // scale), -(-height // scale)
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        box = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
        top, left, rows, columns = reduced_box(box, scale, *small)
        assert top >= 0 and left >= 0 and rows >= 1 and columns >= 1
        assert top + rows <= small[1] and left + columns <= small[0]
        assert abs(top - box[0] / scale) <= 1 and abs(top + rows - (box[0] + h) / scale) <= 1
    assert reduced_box((0, 0, 80, 160), scale, 160 // scale, 80 // scale) == (0, 0, 80 // scale, 160 // scale)


def test_pictures_are_reduced_only_as_far_as_the_crop_keeps_its_pixels() -> None:
    recipe = Recipe()
    assert recipe.reducible({"downsample": 0, "box": (0, 0, 448, 900)}, 224) == 2.0
    assert recipe.reducible({"downsample": 0, "box": (0, 0, 447, 900)}, 224) < 2.0
    assert recipe.reducible({"downsample": 64, "box": (0, 0, 999, 999)}, 224) == 1.0  # resized from the whole picture
