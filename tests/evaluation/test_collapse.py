"""Collapse measures against hand-computed and brute-force values."""

import math

import numpy as np
import pytest
import torch

from lgrep.evaluation.collapse import isotropic_std, normalised_std, pair_cosines, rankme


def test_rankme_by_hand() -> None:
    # singular values 3 and 1: p = 3/4, 1/4; entropy = ln 4 - 3/4 ln 3; exp = 4 / 3^(3/4)
    features = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert float(rankme(features, epsilon=0.0)) == pytest.approx(4 / 3**0.75, rel=1e-12)
    assert float(rankme(features)) == pytest.approx(4 / 3**0.75, rel=1e-5)


def test_rankme_equals_numpy_and_ignores_scale() -> None:
    features = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    singular = np.linalg.svd(features.numpy(), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    expected = math.exp(-(share * np.log(share)).sum())
    assert float(rankme(features)) == pytest.approx(expected, rel=1e-10)
    assert float(rankme(1e4 * features)) == pytest.approx(expected, rel=1e-10)


def test_rankme_of_degenerate_features() -> None:
    assert float(rankme(torch.ones(10, 5))) == pytest.approx(1.0, abs=1e-4)
    assert float(rankme(torch.zeros(10, 5))) == pytest.approx(1.0, abs=1e-4)
    assert math.isnan(float(rankme(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))))


def test_std_of_isotropic_directions_is_the_reference() -> None:
    features = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(0.1, 9, len(features))[:, None]
    assert float(normalised_std(features * lengths)) == pytest.approx(isotropic_std(16), rel=0.01)
    assert float(normalised_std(lengths * torch.ones(1, 16))) == pytest.approx(0.0, abs=1e-6)


def test_pair_cosines_equal_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 7, generator=generator, dtype=torch.float64)
    group = torch.randint(0, 8, (30,), generator=generator) * 1000 - 3
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    cosine, same = unit @ unit.T, group.numpy()[:, None] == group.numpy()[None]
    positive, other = pair_cosines(features, group)
    assert float(positive) == pytest.approx(cosine[same & ~np.eye(30, dtype=bool)].mean(), rel=1e-10)
    assert float(other) == pytest.approx(cosine[~same].mean(), rel=1e-10)


def test_pair_cosines_without_pairs() -> None:
    positive, other = pair_cosines(torch.eye(3), torch.arange(3))
    assert math.isnan(float(positive)) and float(other) == pytest.approx(0.0)
