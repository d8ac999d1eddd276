"""Shares of an epoch: exact, keyed, and fair to every anchor."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrep.data.mixing import MixedOrder, Mixture, mixed_order
from lgrep.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=4),
    st.integers(0, 300),
    st.integers(0, 3),
)
def test_shares_are_exact_and_repeats_needed(sizes: list[tuple[int, int]], length: int, epoch: int) -> None:
    starts = np.cumsum([0, *(size for size, _ in sizes)])
    parts = [np.arange(starts[i], starts[i + 1]) for i in range(len(sizes))]
    total = sum(weight for _, weight in sizes)
    order = mixed_order(7, epoch, parts, [weight / total for _, weight in sizes], length)
    assert len(order) == length
    counts = Counter(order.tolist())
    for part, (size, weight) in zip(parts, sizes, strict=True):
        drawn = [counts[int(anchor)] for anchor in part]
        assert abs(sum(drawn) - length * weight / total) < 1
        assert max(drawn) <= -(-sum(drawn) // size) and min(drawn) >= sum(drawn) // size


def test_order_is_keyed_and_parts_are_spread() -> None:
    parts, shares = [np.arange(1000), np.arange(5000, 5100)], [0.5, 0.5]
    order = mixed_order(0, 0, parts, shares, 1000)
    assert np.array_equal(order, mixed_order(0, 0, parts, shares, 1000))
    assert not np.array_equal(order, mixed_order(0, 1, parts, shares, 1000))
    assert not np.array_equal(order, mixed_order(1, 0, parts, shares, 1000))
    per_block = (order.reshape(10, 100) >= 5000).sum(1)
    assert per_block.min() > 30 and per_block.max() < 70
    seen = np.concatenate([mixed_order(0, epoch, parts, shares, 1000) for epoch in range(12)])
    assert len(set(seen[seen < 5000])) > 990  # a part with too many anchors shows others in the next epoch


def test_repetitions_lie_about_a_pass_apart() -> None:
    order = mixed_order(0, 0, [np.arange(100), np.arange(1000, 1100)], [0.5, 0.5], 1000)
    small = order[order < 100]
    passes = small.reshape(5, 100)
    assert all(sorted(one.tolist()) == list(range(100)) for one in passes)


def test_an_order_is_as_long_as_the_union() -> None:
    order = MixedOrder([np.arange(3), np.arange(10, 17)], [0.5, 0.5], seed=4)
    assert len(order) == len(order(2)) == 10
    assert np.array_equal(order(2), mixed_order(4, 2, order.parts, [0.5, 0.5], 10)) and (order(2) < 10).sum() == 5


def test_shares_by_name() -> None:
    assert Mixture.of({"synthetic": 3, "real": 1}, ["real", "synthetic"]).shares == (0.25, 0.75)
    for shares, message in (
        ({"real": 1, "sinthetic": 1}, "did you mean 'synthetic'"),
        ({"real": 1}, "data.shares lacks synthetic"),
        ({"real": 1, "synthetic": 0}, "must be a positive number"),
        ({"real": 1, "synthetic": float("nan")}, "must be a positive number"),
    ):
        with pytest.raises(ConfigError, match=message):
            Mixture.of(shares, ["real", "synthetic"])
