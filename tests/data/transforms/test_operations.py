"""Batched operations against torchvision, picture by picture."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from lgrep.data.transforms import blur, color
from lgrep.data.transforms.host import Canvas

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
SELECTIONS = {"none": [], "some": [1, 4, 9], "all": list(range(10)), "unsorted": [8, 0, 3]}


def apply_to(pictures: Tensor, chosen: list[int], function) -> Tensor:
    return torch.stack([function(i, x) if i in chosen else x for i, x in enumerate(pictures)])


@pytest.fixture(params=SELECTIONS)
def chosen(request: pytest.FixtureRequest) -> list[int]:
    return SELECTIONS[request.param]


def as_index(chosen: list[int]) -> Tensor:
    return torch.tensor(chosen, dtype=torch.long)


def test_flip(pictures: Tensor, chosen: list[int]) -> None:
    expected = apply_to(pictures, chosen, lambda i, x: reference.horizontal_flip(x))
    assert torch.equal(color.flip_(pictures.clone(), as_index(chosen)), expected)


def test_grayscale(pictures: Tensor, chosen: list[int]) -> None:
    expected = apply_to(pictures, chosen, lambda i, x: reference.rgb_to_grayscale(x, 3))
    torch.testing.assert_close(color.grayscale_(pictures.clone(), as_index(chosen)), expected, **TOLERANCE)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 1.0])
def test_solarise(pictures: Tensor, chosen: list[int], threshold: float) -> None:
    pictures[0, :, :5] = threshold
    expected = apply_to(pictures, chosen, lambda i, x: reference.solarize(x, threshold))
    torch.testing.assert_close(color.solarise_(pictures.clone(), as_index(chosen), threshold), expected, **TOLERANCE)


def test_normalise(pictures: Tensor) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = reference.normalize(pictures, list(mean), list(std))
    torch.testing.assert_close(color.normalise_(pictures.clone(), mean, std), expected, **TOLERANCE)


def test_uint8_to_float() -> None:
    values = torch.arange(256, dtype=torch.uint8).expand(3, -1)[None, :, None]
    expected = reference.to_dtype(values, torch.float32, scale=True)
    torch.testing.assert_close(color.to_float(values), expected, atol=1e-7, rtol=0.0)


@pytest.mark.parametrize("shift", [-0.5, -0.31, -0.1, 0.0, 0.05, 0.27, 0.5])
def test_hue(pictures: Tensor, shift: float) -> None:
    result = color.shift_hue_(pictures.clone(), torch.full((10,), shift))
    torch.testing.assert_close(result, reference.adjust_hue(pictures, shift), **TOLERANCE)


def test_hue_on_ties_between_channels() -> None:
    levels = [0.0, 0.25, 0.5, 1.0]
    colours = torch.tensor(list(itertools.product(levels, repeat=3))).T.reshape(1, 3, 8, 8)
    for shift in (-0.4, 0.1, 0.33):
        result = color.shift_hue_(colours.clone(), torch.tensor([shift]))
        torch.testing.assert_close(result, reference.adjust_hue(colours, shift), **TOLERANCE)


def test_jitter_in_every_order(pictures: Tensor) -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))
    batch = pictures[torch.arange(24) % 10]
    factors = torch.rand(24, 4) * torch.tensor([1.6, 1.6, 1.6, 1.0]) + torch.tensor([0.0, 0.2, 0.2, -0.5])
    index = [(orders[:, p] == color.HUE).nonzero()[:, 0] for p in range(4)]
    index[2] = index[2].flip(0)
    result = color.jitter_(batch.clone(), factors, orders, index)
    adjust = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    for got, picture, factor, order in zip(result, batch, factors.tolist(), orders.tolist(), strict=True):
        for operation in order:
            picture = adjust[operation](picture, factor[operation])
        torch.testing.assert_close(got, picture, **TOLERANCE)


def test_jitter_leaves_unlisted_pictures_alone(pictures: Tensor) -> None:
    factors, order = torch.full((10, 4), 0.3), torch.arange(4).expand(10, 4)
    index = [as_index([]), as_index([]), as_index([]), as_index([2, 5])]
    result = color.jitter_(pictures.clone(), factors, order, index)
    changed = [i for i in range(10) if not torch.equal(result[i], pictures[i])]
    assert changed == [2, 5]
    assert torch.equal(color.jitter_(pictures.clone(), factors, order, [as_index([])] * 4), pictures)


@pytest.mark.parametrize("radius", [1, 3, 7])
def test_blur(pictures: Tensor, chosen: list[int], radius: int) -> None:
    sigma = torch.linspace(0.1, 2.0, 10)
    size = [2 * radius + 1] * 2
    expected = apply_to(pictures, chosen, lambda i, x: reference.gaussian_blur(x, size, [sigma[i].item()] * 2))
    torch.testing.assert_close(blur.blur_(pictures.clone(), as_index(chosen), sigma, radius), expected, **TOLERANCE)


def test_blur_across_cache_blocks(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    sigma = torch.linspace(0.1, 2.0, 10)
    whole = blur.gaussian_blur(pictures, sigma, 7)
    monkeypatch.setattr(blur, "_CPU_BLOCK", 3 * pictures[:1].numel())
    assert torch.equal(blur.gaussian_blur(pictures, sigma, 7), whole)


@pytest.mark.parametrize("shape", [(5, 4), (1, 6), (2, 2), (1, 1), (7, 8)])
def test_blur_of_pictures_smaller_than_the_radius(shape: tuple[int, int]) -> None:
    picture = torch.rand(1, 3, *shape, dtype=torch.float64)
    radius, sigma = 7, 1.7
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    taps /= taps.sum()

    def mirrored(position: int, length: int) -> int:
        while not 0 <= position < length:
            position = 0 if length == 1 else -position if position < 0 else 2 * (length - 1) - position
        return position

    def band(length: int) -> Tensor:
        matrix = torch.zeros(length, length, dtype=torch.float64)
        for i in range(length):
            for k in range(-radius, radius + 1):
                matrix[i, mirrored(i + k, length)] += taps[k + radius]
        return matrix

    expected = band(shape[0]) @ picture @ band(shape[1]).T
    result = blur.gaussian_blur(picture.float(), torch.tensor([sigma]), radius)
    torch.testing.assert_close(result, expected.float(), **TOLERANCE)


def test_sigma_zero_is_no_blur(pictures: Tensor) -> None:
    assert torch.equal(blur.gaussian_blur(pictures, torch.zeros(10), 4), pictures)


def test_kernel_radius_gives_the_common_15_taps_for_sigma_2() -> None:
    assert 2 * blur.kernel_radius(2.0) + 1 == 15


def test_pillows_radius_is_our_sigma() -> None:
    from PIL import Image, ImageFilter

    step = torch.zeros(1, 3, 41, 41)
    step[..., 20:] = 1.0
    ours = blur.gaussian_blur(step, torch.tensor([2.0]), 7)[0, 0, 20] * 255
    grey = Image.fromarray((step[0, 0] * 255).byte().numpy())
    pillow = grey.filter(ImageFilter.GaussianBlur(radius=2.0)).crop((0, 20, 41, 21))
    assert (ours - torch.tensor(list(pillow.tobytes())).float()).abs().max() < 4  # box filters, 8 bits


def test_leaving_the_hue_step_out_equals_zero_shifts(pictures: Tensor) -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))[[0, 3, 7, 11, 14, 17, 20, 21, 22, 23]]
    factors = torch.rand(10, 4) + 0.5
    factors[:, color.HUE] = 0.0
    index = [(orders[:, p] == color.HUE).nonzero()[:, 0] for p in range(4)]
    shifted = color.jitter_(pictures.clone(), factors, orders, index)
    torch.testing.assert_close(color.jitter_(pictures.clone(), factors, orders, index, shift_hue=False), shifted)


def on_canvas(picture: Tensor, change) -> Tensor:
    canvas = Canvas(*picture.shape[1:])
    canvas.pixels[:] = picture.permute(1, 2, 0).numpy()
    change(canvas)
    return torch.from_numpy(canvas.pixels.transpose(2, 0, 1).copy())


CANVAS = {
    "grayscale": (lambda c: c.grayscale(), lambda x: reference.rgb_to_grayscale(x, 3)),
    "brightness": (
        lambda c: c.jitter([1.7, 0, 0, 0], [color.BRIGHTNESS]),
        lambda x: reference.adjust_brightness(x, 1.7),
    ),
    "contrast": (lambda c: c.jitter([0, 1.7, 0, 0], [color.CONTRAST]), lambda x: reference.adjust_contrast(x, 1.7)),
    "no contrast": (lambda c: c.jitter([0, 0.0, 0, 0], [color.CONTRAST]), lambda x: reference.adjust_contrast(x, 0.0)),
    "saturation": (
        lambda c: c.jitter([0, 0, 1.7, 0], [color.SATURATION]),
        lambda x: reference.adjust_saturation(x, 1.7),
    ),
    "blur": (lambda c: c.blur(1.7, 7), lambda x: reference.gaussian_blur(x, [15, 15], [1.7, 1.7])),
    "slight blur": (lambda c: c.blur(0.3, 7), lambda x: reference.gaussian_blur(x, [15, 15], [0.3, 0.3])),
    "solarise": (lambda c: c.solarise(0.4), lambda x: reference.solarize(x, 0.4)),
    "normalise": (
        lambda c: c.normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        lambda x: reference.normalize(x, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
    ),
}


@pytest.mark.parametrize("operation", CANVAS)
def test_operations_of_a_single_picture(pictures: Tensor, operation: str) -> None:
    change, expected = CANVAS[operation]
    for picture in pictures:
        torch.testing.assert_close(on_canvas(picture, change), expected(picture), **TOLERANCE)


@pytest.mark.parametrize("shift", [-0.5, -0.31, -0.1, 0.0, 0.05, 0.27, 0.5])
def test_hue_of_a_single_picture(pictures: Tensor, shift: float) -> None:
    levels = [0.0, 0.25, 0.5, 1.0]
    ties = torch.tensor(list(itertools.product(levels, repeat=3))).T.reshape(3, 8, 8)
    for picture in (*pictures, ties):
        result = on_canvas(picture, lambda canvas: canvas.hue(shift))
        torch.testing.assert_close(result, reference.adjust_hue(picture, shift), **TOLERANCE)


@pytest.mark.parametrize("shape", [(5, 4), (1, 6), (2, 2), (1, 1), (7, 8)])
def test_blur_of_single_pictures_smaller_than_the_radius(shape: tuple[int, int]) -> None:
    picture = torch.rand(3, *shape, generator=torch.Generator().manual_seed(2))
    expected = blur.gaussian_blur(picture[None], torch.tensor([1.7]), 7)[0]  # held against a band matrix above
    torch.testing.assert_close(on_canvas(picture, lambda canvas: canvas.blur(1.7, 7)), expected, **TOLERANCE)


def test_loading_a_view_flips_and_scales() -> None:
    view = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    for flip in (False, True):
        canvas = Canvas(5, 7)
        canvas.load(view.numpy(), flip)
        expected = (view.flip(-1) if flip else view) / 255
        assert torch.equal(torch.from_numpy(canvas.pixels.transpose(2, 0, 1).copy()), expected)
