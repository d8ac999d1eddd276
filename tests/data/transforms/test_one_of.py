from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from lgrep.data.transforms import EvalRecipe, Recipe, finish_view
from lgrep.data.transforms.one_of import OneOf, combinations
from lgrep.errors import ConfigError

SHARP, DARK = Recipe(blur=0.0, crop_scale=(0.9, 1.0)), Recipe(blur=1.0, solarise=0.5, crop_scale=(0.08, 0.1))


def test_each_option_has_its_share_and_its_own_draws() -> None:
    either = OneOf([SHARP, DARK, EvalRecipe()])
    drawn = [either.draw(np.random.default_rng(i), 90, 70) for i in range(1500)]
    counts = np.bincount([entry["option"] for entry in drawn], minlength=3)
    assert (abs(counts - 500) < 80).all()
    for entry in drawn:
        area = np.prod(entry["box"][2:]) / (90 * 70) if "box" in entry else None
        assert [area and area > 0.8, area and area < 0.15, area is None][entry["option"]]


def test_a_batch_is_what_each_option_makes_of_its_own_views(photo: Image.Image) -> None:
    options = [SHARP, DARK, EvalRecipe()]
    either = pickle.loads(pickle.dumps(OneOf(options)))
    for wanted in ({0, 1, 2}, {1}):  # also a batch in which some options do not occur
        drawn = [either.draw(np.random.default_rng(i), *photo.size) for i in range(30)]
        drawn = [entry for entry in drawn if entry["option"] in wanted]
        pixels = [either.worker(photo, entry, 24) for entry in drawn]
        views = either.device(torch.from_numpy(np.stack(pixels)), either.collate(drawn))
        assert {entry["option"] for entry in drawn} == wanted
        for view, entry, own in zip(views, drawn, pixels, strict=True):
            option = options[entry["option"]]
            assert np.array_equal(own, option.worker(photo, entry, 24))
            alone = option.device(torch.from_numpy(own[None].copy()), option.collate([entry]))[0]
            torch.testing.assert_close(view, alone, rtol=0, atol=1e-6)
            assert np.allclose(finish_view(either, own, entry), alone, atol=1e-6)


def test_reduced_pictures(photo: Image.Image) -> None:
    either = OneOf([SHARP, EvalRecipe()])
    drawn = [either.draw(np.random.default_rng(i), *photo.size) for i in range(20)]
    for entry in drawn:
        if entry["option"]:
            assert either.reducible(entry, 16) == 1.0
        else:
            assert either.reducible(entry, 16) == SHARP.reducible(entry, 16) > 1
            assert either.reduced(entry, 2, 45, 35) == SHARP.reduced(entry, 2, 45, 35)


def test_options_must_normalise_alike() -> None:
    with pytest.raises(ConfigError, match="same mean and std"):
        OneOf([SHARP, Recipe(mean=(0.5, 0.5, 0.5))])


def test_names_are_looked_up() -> None:
    made = combinations(["a", "a|b", "a|b", "b"], {"a": SHARP, "b": DARK})
    assert list(made) == ["a|b"] and made["a|b"].options == [SHARP, DARK]  # type: ignore[attr-defined]
