"""Every preset of `configs/augment` renders, and draws what its paper says, as torchvision would."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from made import picture
from PIL import Image
from scipy.stats import binomtest, ks_2samp, kstest
from torchvision.transforms import ColorJitter, RandomResizedCrop

from lgrep.config.compose import compose_config, group_choices
from lgrep.config.schema import Augment
from lgrep.config.spec import build, validate_spec
from lgrep.data.transforms import Transform
from lgrep.data.transforms.base import render
from lgrep.data.transforms.one_of import combinations
from lgrep.data.views import View, describe_views, expand_views

COUNT = 600
LEAST_P = 1e-4  # draws are seeded: a failure is no matter of luck
WIDTH, HEIGHT = 200, 150
NO_COLOUR = (0.0, 0.0, 0.0, 0.0)


class Paper(NamedTuple):
    """What is published of one view: probabilities, and (brightness, contrast, saturation, hue)."""

    crop: tuple[float, float]
    resize: str = "bilinear"
    flip: float = 0.5
    jitter: float = 0.8
    strengths: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    grey: float = 0.2
    blur: float = 0.5
    solarise: float = 0.0


def crop_only(crop: tuple[float, float], resize: str = "bilinear", flip: float = 0.0) -> Paper:
    return Paper(crop, resize, flip, jitter=0.0, strengths=NO_COLOUR, grey=0.0, blur=0.0)


def byol(least: float, blur: float, solarise: float, resize: str = "bicubic", most: float = 1.0) -> Paper:
    return Paper((least, most), resize, strengths=(0.4, 0.4, 0.2, 0.1), blur=blur, solarise=solarise)


STRONG_JITTER = (0.8, 0.8, 0.8, 0.2)
PAPERS: dict[str, dict[str, Paper]] = {
    "barlow_twins": {"blurred": byol(0.08, 1.0, 0.0), "solarised": byol(0.08, 0.1, 0.2)},
    "byol": {"blurred": byol(0.08, 1.0, 0.0), "solarised": byol(0.08, 0.1, 0.2)},
    "clip": {"weak": crop_only((0.5, 1.0))},
    "clip_rocket": {"weak": crop_only((0.5, 1.0), "bicubic"), "strong": Paper((0.08, 1.0), "bicubic")},
    "dino": {
        "blurred": byol(0.4, 1.0, 0.0),
        "solarised": byol(0.4, 0.1, 0.2),
        "local": byol(0.05, 0.5, 0.0, most=0.4),
    },
    "drawings": {"drawing": Paper((0.25, 1.0), strengths=(0.1, 0.3, 0.3, 0.05), grey=0.1, blur=0.0)},  # our own
    "global_crop": {"global_crop": crop_only((0.5, 1.0))},
    "lgslip": {"global_crop": crop_only((0.5, 1.0))},
    "mae": {"crop": crop_only((0.2, 1.0), "bicubic", flip=0.5)},
    "mocov3": {"blurred": byol(0.08, 1.0, 0.0, "bilinear"), "solarised": byol(0.08, 0.1, 0.2, "bilinear")},
    "simclr": {"simclr": Paper((0.2, 1.0))},
    "simclr_imagenet": {"simclr": Paper((0.08, 1.0), "bicubic", strengths=STRONG_JITTER)},
    "slip": {"simclr": Paper((0.2, 1.0)), "global_crop": crop_only((0.5, 1.0))},
    "stablerep": {"strong": Paper((0.08, 1.0))},
    "supervised": {"crop": crop_only((0.08, 1.0), flip=0.5)},
    "swav": {
        "global": Paper((0.14, 1.0), strengths=STRONG_JITTER),
        "local": Paper((0.05, 0.14), strengths=STRONG_JITTER),
    },
    "synclr": {
        "blurred": byol(0.32, 1.0, 0.0),
        "solarised": byol(0.32, 0.1, 0.2),
        "local": byol(0.08, 0.5, 0.0, most=0.32),
    },
    "trex": {"global": byol(0.25, 0.2, 0.2), "local": byol(0.05, 0.5, 0.0, most=0.25)},
    "vicreg": {"vicreg": byol(0.08, 0.5, 0.1)},
}
VIEWS = {  # at 224 px, with the pictures per anchor that the paper has
    "barlow_twins": (1, "1 x blurred 224 px, 1 x solarised 224 px"),
    "byol": (1, "1 x blurred 224 px, 1 x solarised 224 px"),
    "clip": (1, "1 x weak 224 px"),
    "clip_rocket": (1, "1 x weak 224 px, 2 x strong 224 px"),
    "dino": (1, "1 x blurred 224 px, 1 x solarised 224 px, 8 x local 96 px"),
    "drawings": (1, "2 x drawing 224 px"),
    "global_crop": (2, "2 x global_crop 224 px"),
    "lgslip": (2, "2 x global_crop 224 px"),
    "mae": (1, "1 x crop 224 px"),
    "mocov3": (1, "1 x blurred 224 px, 1 x solarised 224 px"),
    "simclr": (1, "2 x simclr 224 px"),
    "simclr_imagenet": (1, "2 x simclr 224 px"),
    "slip": (1, "2 x simclr 224 px, 1 x global_crop 224 px"),
    "stablerep": (6, "6 x strong 224 px"),
    "supervised": (1, "1 x crop 224 px"),
    "swav": (1, "2 x global 224 px, 6 x local 96 px"),
    "synclr": (4, "4 x blurred|solarised 224 px, 16 x local 96 px"),
    "trex": (1, "1 x global 224 px, 8 x local 96 px"),
    "vicreg": (1, "2 x vicreg 224 px"),
}
CASES = [(preset, name) for preset, transforms in PAPERS.items() for name in transforms]


@cache
def loaded(preset: str, size: int = 224) -> tuple[Augment, dict[str, Any]]:
    values, _ = compose_config("train", [f"augment={preset}", f"backbone.image_size={size}"])
    augment = Augment(**values["augment"])
    specs = {name: validate_spec(node, f"augment.transforms.{name}") for name, node in augment.transforms.items()}
    return augment, {name: build(spec) for name, spec in specs.items()}


def views_of(preset: str, pictures: int, size: int = 224) -> tuple[list[View], dict[str, Transform]]:
    augment, transforms = loaded(preset, size)
    views = expand_views(augment.views, pictures, transforms)
    return views, transforms | combinations([view.transform for view in views], transforms)


def test_every_preset_is_listed_here() -> None:
    assert group_choices("augment") == sorted(PAPERS) == sorted(VIEWS)


@pytest.mark.parametrize("preset", sorted(PAPERS))
def test_views_are_the_published_ones(preset: str) -> None:
    pictures, listed = VIEWS[preset]
    views, _ = views_of(preset, pictures)
    assert describe_views(views) == listed
    assert (
        {name for view in views for name in view.transform.split("|")} == set(PAPERS[preset]) == set(loaded(preset)[1])
    )
    assert {view.picture for view in views} == set(range(pictures))


@pytest.mark.parametrize("preset", sorted(PAPERS))
def test_every_view_renders_at_a_small_size(preset: str) -> None:
    views, transforms = views_of(preset, VIEWS[preset][0], 32)
    for number, view in enumerate(dict.fromkeys(views)):
        rendered = render(transforms[view.transform], picture(number), np.random.default_rng(number), view.size)
        assert rendered.shape == (3, view.size, view.size) and view.size in (16, 32)
        assert rendered.dtype == torch.float32 and torch.isfinite(rendered).all()


@cache
def drawn(preset: str, name: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [loaded(preset)[1][name].draw(rng, WIDTH, HEIGHT) for _ in range(COUNT)]


@cache
def torchvision_crops(scale: tuple[float, float]) -> np.ndarray[Any, Any]:
    torch.manual_seed(1)
    blank = Image.new("RGB", (WIDTH, HEIGHT))
    return np.array([RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3]) for _ in range(COUNT)])


@cache
def torchvision_factors(strengths: tuple[float, float, float, float]) -> np.ndarray[Any, Any]:
    torch.manual_seed(2)
    jitter = ColorJitter(*strengths)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    return np.array([[float(factor) for factor in ColorJitter.get_params(*ranges)[1:]] for _ in range(COUNT)])


@pytest.mark.parametrize(("preset", "name"), CASES)
def test_crops_are_torchvisions(preset: str, name: str) -> None:
    paper = PAPERS[preset][name]
    ours, theirs = np.array([entry["box"] for entry in drawn(preset, name)]), torchvision_crops(paper.crop)
    for measure in (lambda b: b[:, 0], lambda b: b[:, 1], lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2]):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > LEAST_P
    assert loaded(preset)[1][name].interpolation == paper.resize


@pytest.mark.parametrize(("preset", "name"), CASES)
def test_probabilities_are_the_published_ones(preset: str, name: str) -> None:
    paper, entries = PAPERS[preset][name], drawn(preset, name)
    expected = {
        "flip": paper.flip,
        "jitter": paper.jitter,
        "grayscale": paper.grey,
        "sigma": paper.blur,
        "solarise": paper.solarise,
        "downsample": 0.0,
    }
    for key, probability in expected.items():
        times = sum(bool(entry[key]) for entry in entries)
        if probability in (0.0, 1.0):
            assert times == probability * COUNT, key
        else:
            assert binomtest(times, COUNT, probability).pvalue > LEAST_P, key
    sigma = [entry["sigma"] for entry in entries if entry["sigma"]]
    if sigma:
        assert kstest(sigma, "uniform", args=(0.1, 1.9)).pvalue > LEAST_P


@pytest.mark.parametrize(("preset", "name"), [case for case in CASES if PAPERS[case[0]][case[1]].jitter])
def test_colours_are_torchvisions(preset: str, name: str) -> None:
    factors = np.array([entry["factors"] for entry in drawn(preset, name) if entry["jitter"]])
    theirs = torchvision_factors(PAPERS[preset][name].strengths)
    for i in range(4):
        assert ks_2samp(factors[:, i], theirs[:, i]).pvalue > LEAST_P


def test_normalisation_is_imagenets_but_for_swav() -> None:
    for preset in PAPERS:
        for transform in loaded(preset)[1].values():
            assert transform.mean == (0.485, 0.456, 0.406)
            assert transform.std == ((0.228, 0.224, 0.225) if preset == "swav" else (0.229, 0.224, 0.225))
