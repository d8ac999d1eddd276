"""The parameters are distributed as torchvision draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import ColorJitter, RandomResizedCrop

from lgrep.data.transforms import Recipe
from lgrep.data.transforms.crop import CROP_DRAWS, random_crop_box

COUNT = 2000
LEAST_P = 1e-3  # draws are seeded: a failure is no matter of luck


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    rng = np.random.default_rng(0)
    return [Recipe(jitter=1.0, solarise=0.2).draw(rng, 200, 150) for _ in range(COUNT)]


@pytest.mark.parametrize(
    ("width", "height", "scale", "ratio"),
    [(200, 150, (0.08, 1.0), (3 / 4, 4 / 3)), (400, 90, (0.2, 1.0), (3 / 4, 4 / 3)), (64, 64, (0.5, 1.0), (0.5, 2.0))],
)
def test_crop_boxes(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    picture = Image.new("RGB", (width, height))
    theirs = np.array([RandomResizedCrop.get_params(picture, list(scale), list(ratio)) for _ in range(COUNT)])
    ours = np.array([random_crop_box(rng.random(CROP_DRAWS), width, height, scale, ratio) for _ in range(COUNT)])
    measures = {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "height": lambda b: b[:, 2],
        "width": lambda b: b[:, 3],
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
    }
    for name, measure in measures.items():
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > LEAST_P, name
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    assert (ours >= 0).all()


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1), (3, 2)])
def test_the_fallback_is_torchvisions(width: int, height: int) -> None:
    # Pictures this thin or small (almost) never hold a box of the drawn area.
    scale, ratio = (0.99, 1.0), (3 / 4, 4 / 3)
    theirs = RandomResizedCrop.get_params(Image.new("RGB", (width, height)), list(scale), list(ratio))
    assert random_crop_box([0.99] * CROP_DRAWS, width, height, scale, ratio) == tuple(theirs)


def test_corner_boxes_are_reached() -> None:
    scale, ratio = (0.25, 0.25), (1.0, 1.0)
    low = random_crop_box([0.0] * CROP_DRAWS, 64, 64, scale, ratio)
    high = random_crop_box([1.0 - 2.0**-53] * CROP_DRAWS, 64, 64, scale, ratio)
    assert (low, high) == ((0, 0, 32, 32), (32, 32, 32, 32))


def test_jitter_factors_and_orders(drawn: list[dict]) -> None:
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    theirs = [
        ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(COUNT)
    ]
    for i in range(4):
        assert ks_2samp([entry["factors"][i] for entry in drawn], [float(p[1 + i]) for p in theirs]).pvalue > LEAST_P
    _, counts = np.unique([entry["order"] for entry in drawn], axis=0, return_counts=True)
    assert len(counts) == 24
    assert chisquare(counts).pvalue > LEAST_P


def test_strong_jitter_stops_at_zero() -> None:
    rng = np.random.default_rng(2)
    recipe = Recipe(jitter=1.0, brightness=1.6, hue=0.0)
    factors = np.array([recipe.draw(rng, 9, 9)["factors"] for _ in range(COUNT)])
    assert kstest(factors[:, 0], "uniform", args=(0.0, 2.6)).pvalue > LEAST_P
    assert (factors[:, 3] == 0.0).all()


def test_probabilities_and_sigma(drawn: list[dict]) -> None:
    shares = {
        name: np.mean([bool(entry[name]) for entry in drawn]) for name in ("flip", "grayscale", "sigma", "solarise")
    }
    for name, expected in {"flip": 0.5, "grayscale": 0.2, "sigma": 0.5, "solarise": 0.2}.items():
        assert abs(shares[name] - expected) < 4 * np.sqrt(expected * (1 - expected) / COUNT), name
    sigma = [entry["sigma"] for entry in drawn if entry["sigma"]]
    assert kstest(sigma, "uniform", args=(0.1, 1.9)).pvalue > LEAST_P


def test_choices_are_independent(drawn: list[dict]) -> None:
    columns = [
        [entry["flip"], entry["grayscale"], entry["sigma"] > 0, entry["solarise"], *entry["factors"], entry["box"][0]]
        for entry in drawn
    ]
    correlation = np.corrcoef(np.array(columns, dtype=float).T) - np.eye(9)
    assert np.abs(correlation).max() < 5 / np.sqrt(COUNT)


def test_jitter_probability() -> None:
    rng = np.random.default_rng(3)
    drawn = [Recipe().draw(rng, 9, 9) for _ in range(COUNT)]
    assert abs(np.mean([entry["jitter"] for entry in drawn]) - 0.8) < 0.04
    assert all(entry["factors"] == (1.0, 1.0, 1.0, 0.0) for entry in drawn if not entry["jitter"])
    assert torch.tensor([entry["factors"] for entry in drawn]).shape == (COUNT, 4)
