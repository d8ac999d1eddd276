from __future__ import annotations

import numpy as np
import pytest

from lgrep.mining.edges import limit_hubs, only_mutual
from mining.made_sets import brute_force, clustered


def one_by_one(rows: np.ndarray, products: np.ndarray, k: int, most: int) -> list[set[int]]:
    """Deferred acceptance with one proposal at a time, in another order than the vectorised one."""
    untried = [
        list(zip(row[row >= 0], score[row >= 0], strict=True)) for row, score in zip(rows, products, strict=True)
    ]
    guests: list[list[tuple[float, int]]] = [[] for _ in rows]
    count = [0] * len(rows)
    waiting = list(range(len(rows)))[::-1]
    while waiting:
        row = waiting.pop()
        while count[row] < k and untried[row]:
            target, product = untried[row].pop(0)
            guests[target].append((-product, row))
            count[row] += 1
            if len(guests[target]) > most:
                worst = max(guests[target])
                guests[target].remove(worst)
                count[worst[1]] -= 1
                waiting.append(worst[1])
    chosen: list[set[int]] = [set() for _ in rows]
    for target, held in enumerate(guests):
        for _, row in held:
            chosen[row].add(target)
    return chosen


@pytest.mark.parametrize(("k", "most"), [(3, 3), (3, 5), (2, 1), (4, 100)])
def test_limited_hubs(k: int, most: int) -> None:
    rows, products = brute_force(clustered(120, 6), 12)
    rows[5, 4:], products[5, 4:] = -1, -np.inf
    found, scores = limit_hubs(rows, products.astype(np.float32), k, most)
    assert found.shape == (120, k) and np.bincount(found[found >= 0]).max() <= most
    expected = one_by_one(rows, products.astype(np.float32), k, most)
    assert [set(row[row >= 0]) for row in found] == expected
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    if most == 100:
        assert np.array_equal(found, rows[:, :k])


def test_mutual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgrep.mining.edges._BLOCK", 7)
    rows, products = brute_force(clustered(90, 6), 4)
    rows[3], products[3] = -1, -np.inf
    found, scores = only_mutual(rows, products.astype(np.float32))
    listed = [set(row[row >= 0].tolist()) for row in rows]
    for row in range(90):
        kept = found[row][found[row] >= 0].tolist()
        assert kept == [other for other in rows[row].tolist() if other >= 0 and row in listed[other]]
        assert np.isneginf(scores[row][len(kept) :]).all() and (found[row][len(kept) :] == -1).all()


def test_nobody_left() -> None:
    rows, products = np.full((3, 2), -1), np.full((3, 2), -np.inf, np.float32)
    assert (limit_hubs(rows, products, 2, 1)[0] == -1).all() and (only_mutual(rows, products)[0] == -1).all()
