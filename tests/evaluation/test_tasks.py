from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.shades import Shades
from PIL import Image
from torch import Tensor, nn

from lgrep.backbones.registry import build_backbone
from lgrep.checkpoints.encoder import Pixels
from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.contract import Subject
from lgrep.evaluation.tasks import Resources, describe_network, describe_transform, fingerprint, make_task
from lgrep.records import weights_hash


class Scaled(nn.Module):
    """A factor that neither the weights nor the description of the layers show."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, pictures: Tensor) -> Tensor:
        return self.factor * pictures.mean(dim=(2, 3))


def _subject(encoder: nn.Module, transform: Any = None) -> Subject:
    return Subject("made", encoder, transform or EvaluationTransform(8), weights_hash(encoder))


def _train_features(subject: Subject, cache: FeatureCache | None) -> Tensor:
    return make_task(subject, Shades(), Resources(cache=cache)).features_of("train")


def test_networks_of_equal_weights_are_told_apart() -> None:
    plain, grid = (build_backbone("timm/resnet18", **options) for options in ({}, {"pool_grid": 2}))
    grid.load_state_dict(plain.state_dict())
    assert weights_hash(plain) == weights_hash(grid)
    assert describe_network(plain) != describe_network(grid)
    assert describe_network(plain) == describe_network(copy.deepcopy(plain))
    assert describe_network(Pixels(8)) != describe_network(Pixels(16))
    buffered = [nn.Identity(), nn.Identity()]
    for place, module in enumerate(buffered):
        module.register_buffer("hidden", torch.full((2,), float(place)), persistent=False)
    assert weights_hash(buffered[0]) == weights_hash(buffered[1])
    assert describe_network(buffered[0]) != describe_network(buffered[1])


def test_transforms_are_told_apart() -> None:
    transform = EvaluationTransform(8)
    assert describe_transform(transform) == describe_transform(EvaluationTransform(8))
    for change in ({"size": 9}, {"mean": (0.5,) * 3}, {"interpolation": "bicubic"}):
        assert describe_transform(transform) != describe_transform(replace(transform, **change))
    assert describe_transform(lambda picture: torch.zeros(3, 8, 8)) is None


def test_a_transform_that_hides_its_settings_is_not_cached(tmp_path: Path) -> None:
    for value in (0.0, 1.0):
        subject = _subject(Scaled(1.0), lambda picture, value=value: torch.full((3, 8, 8), value))
        assert torch.equal(_train_features(subject, FeatureCache(tmp_path)), torch.full((6, 3), value))
    assert not list(tmp_path.iterdir())


def test_code_that_no_version_tells_is_noticed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    first = _train_features(_subject(Scaled(1.0)), cache)
    assert len(list(tmp_path.glob("*.json"))) == 1
    torch.testing.assert_close(_train_features(_subject(Scaled(2.0)), cache), 2 * first)
    torch.testing.assert_close(_train_features(_subject(Scaled(2.0)), cache), 2 * first)
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_pictures_are_told_apart_by_their_content() -> None:
    pictures = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in range(200)]
    assert fingerprint(pictures) == fingerprint(list(pictures))
    assert fingerprint(pictures) != fingerprint(pictures[::-1])
    assert fingerprint(pictures) != fingerprint(pictures[:-1])
    assert fingerprint([b"a", b"b"]) != fingerprint([b"a", b"c"])
    assert fingerprint([]) == fingerprint([])


def test_features_are_the_same_with_and_without_the_cache(tmp_path: Path) -> None:
    torch.manual_seed(0)
    subject = _subject(build_backbone("timm/test_resnet").eval(), EvaluationTransform(32))
    plain = _train_features(subject, None)
    for _ in range(2):
        kept = _train_features(subject, FeatureCache(tmp_path))
        assert torch.equal(kept, plain) and not kept.requires_grad
    other = make_task(subject, Shades(), Resources()).features_with
    assert other is not None
    assert torch.equal(other(EvaluationTransform(32))("train"), plain)
    assert not torch.equal(other(EvaluationTransform(40))("train"), plain)
    with pytest.raises(KeyError):
        make_task(subject, Shades(), Resources()).features_of("validation")
