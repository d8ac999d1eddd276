from __future__ import annotations

from io import BytesIO

import pytest
import torch
from PIL import Image
from torch import nn

from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.errors import DataError
from lgrep.evaluation.features import extract_features, feature_batches
from lgrep.records import weights_hash

TRANSFORM = EvaluationTransform(8)


def _pictures(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (10, 12), (20 * i % 256, 7 * i % 256, 90)) for i in range(count)]


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_order_values_and_batch_size() -> None:
    network, pictures = _network(), _pictures(7)
    features = extract_features(network, pictures, TRANSFORM, batch_size=3)
    with torch.no_grad():
        expected = network.eval()(torch.stack([TRANSFORM(picture) for picture in pictures]))
    torch.testing.assert_close(features, expected)
    assert features.dtype == torch.float32
    assert not features.is_inference()
    encoded = (_png(picture) for picture in pictures)
    torch.testing.assert_close(extract_features(network, encoded, TRANSFORM), expected)


def test_workers_give_the_same() -> None:
    network, pictures = _network(), _pictures(5)
    alone = extract_features(network, pictures, TRANSFORM, batch_size=2)
    assert torch.equal(extract_features(network, pictures, TRANSFORM, batch_size=2, num_workers=1), alone)


def test_nothing_in_the_module_changes() -> None:
    network = _network().train()
    network[1].eval()
    before = weights_hash(network)
    extract_features(network, _pictures(4), TRANSFORM)
    assert weights_hash(network) == before
    assert [part.training for part in network] == [True, False, True, True, True]


def test_modes_come_back_after_an_error() -> None:
    network = _network().train()
    with pytest.raises(RuntimeError):
        extract_features(network, _pictures(2), lambda picture: torch.zeros(5, 8, 8))
    assert all(part.training for part in network.modules())


def test_undecodable_pictures_are_named() -> None:
    pictures: list[Image.Image | bytes] = [*_pictures(2), b"no picture", b""]
    with pytest.raises(DataError, match=r"2 of 4 .*picture 2 .*picture 3"):
        extract_features(_network(), pictures, TRANSFORM)


def test_features_that_are_not_finite_are_refused() -> None:
    network = _network()
    nn.init.constant_(network[0].bias, float("nan"))
    with pytest.raises(DataError, match="NaN"):
        extract_features(network, _pictures(2), TRANSFORM)
    with pytest.raises(DataError, match="no pictures"):
        extract_features(network, [], TRANSFORM)


def test_the_random_state_is_left_alone() -> None:
    network = _network()
    before = torch.get_rng_state()
    extract_features(network, _pictures(5), TRANSFORM)
    assert torch.equal(before, torch.get_rng_state())


def test_batches_come_one_by_one_and_the_modes_between_them_are_the_callers() -> None:
    network = _network().train()
    sizes = []
    for batch in feature_batches(network, _pictures(7), TRANSFORM, batch_size=3):
        assert network.training and torch.is_grad_enabled()
        sizes.append(len(batch))
    assert sizes == [3, 3, 1]
