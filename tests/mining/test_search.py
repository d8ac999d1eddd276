import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lgrep.errors import ConfigError
from lgrep.mining.lists import Lists
from lgrep.mining.search import exact, nearest, require_faiss
from lgrep.mining.units import Units
from mining.made_sets import brute_force, clustered


def test_exact_search_equals_brute_force() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    database = rng.normal(size=(200, 16)).astype(np.float32)
    queries = rng.normal(size=(9, 16)).astype(np.float32)
    rows, products = nearest(queries, database, 5)
    brute = queries @ database.T
    assert np.array_equal(rows, np.argsort(-brute, axis=1)[:, :5])
    np.testing.assert_allclose(products, -np.sort(-brute, axis=1)[:, :5], rtol=1e-5)


def test_wrong_k_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not in 1\.\.3"):
        nearest(np.zeros((1, 2), np.float32), np.zeros((3, 2), np.float32), 4)
    with pytest.raises(ValueError, match="expected"):
        nearest(np.zeros((1, 2), np.float32), np.zeros((3, 4), np.float32), 1)


def test_its_absence_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"lgrep\[cpu\].*lgrep\[gpu\]"):
        require_faiss()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("block", [64, 10**6])
def test_a_set_in_itself(monkeypatch: pytest.MonkeyPatch, dtype: str, block: int) -> None:
    monkeypatch.setattr("lgrep.mining.search.BLOCK", block)  # several blocks, the last one short
    vectors = (3 * clustered(301, 24)).astype(dtype)  # lengths do not matter
    rows, products = exact(Units(vectors), np.arange(301), np.arange(301), 7)
    expected, best = brute_force(vectors, 7)
    assert np.array_equal(rows, expected)
    np.testing.assert_allclose(products, best, atol=1e-6)


def test_exclusions_are_exact_even_where_they_take_nearly_everything() -> None:
    vectors = np.repeat(clustered(6, 8, clusters=6), 50, axis=0)  # 50 copies of each of six
    vectors += 1e-4 * np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
    labels = np.arange(300) % 7
    found, products = exact(Units(vectors, None, labels, ceiling=0.99), np.arange(300), np.arange(300), 4)
    expected, best = brute_force(vectors, 4, labels, 0.99)
    np.testing.assert_allclose(products, best, atol=1e-6)
    assert (products <= 0.99).all() and (labels[found] != labels[:, None]).all()
    assert (found == expected).mean() > 0.99  # nearly equal products may change places


def test_fewer_than_k_are_marked() -> None:
    vectors = clustered(5, 8)
    rows, products = exact(Units(vectors, None, np.array([0, 0, 0, 0, 1])), np.arange(5), np.arange(5), 3)
    assert rows[:4].tolist() == [[4, -1, -1]] * 4 and (rows[4] >= 0).all()
    assert np.isneginf(products[:4, 1:]).all()


def test_only_the_given_rows_are_neighbours() -> None:
    vectors, members = clustered(100, 16), np.arange(1, 100, 3)
    rows, _ = exact(Units(vectors), np.arange(100), members, 2)
    assert np.isin(rows, members).all()


def test_units_that_share_vectors() -> None:
    source = np.array([0, 0, 1, 2, 2, 2])
    vectors = clustered(3, 8)
    rows, products = exact(Units(vectors, source), np.arange(6), np.arange(6), 5)
    expected, best = brute_force(vectors[source], 5)
    np.testing.assert_allclose(products, best, atol=1e-6)
    assert products[0, 0] > 0.999 and rows[0, 0] == 1  # as published: the same caption is its neighbour


@pytest.mark.parametrize("labels", [False, True])
def test_lists_find_what_brute_force_finds_when_all_are_looked_at(tmp_path: Path, labels: bool) -> None:
    vectors = clustered(1500, 16).astype(np.float16)
    label = np.arange(1500) // 3 if labels else None
    members = np.arange(0, 1500, 1)
    lists = Lists(Units(vectors, None, label), members, tmp_path)
    assert sorted(np.concatenate([lists.members(number) for number in range(lists.count)])) == members.tolist()
    rows, products = lists.search(np.arange(1500), 5, lists.count)
    expected, best = brute_force(vectors, 5, label)
    np.testing.assert_allclose(products, best, atol=1e-6)
    assert (rows == expected).mean() > 0.999


def test_the_number_of_lists_is_tuned_to_the_wanted_recall(tmp_path: Path) -> None:
    vectors = clustered(4000, 16)
    units, every = Units(vectors), np.arange(4000)
    lists = Lists(units, every, tmp_path)
    true, _ = exact(units, every, every, 5)
    probes = [lists.probes_for(every, true, target) for target in (0.5, 0.9, 0.99, 1.0)]
    assert probes == sorted(probes) and probes[-1] <= lists.count

    def recall(count: int) -> float:
        found = lists.search(every, 5, count)[0]
        return float((found[:, :, None] == true[:, None, :]).sum() / true.size)

    assert len(set(probes)) == 4
    for target, count in zip((0.5, 0.9, 0.99, 1.0), probes, strict=True):
        assert recall(count) >= target - 1e-9  # of these very queries, so it holds exactly
        assert count == 1 or recall(count - 1) < target


def test_lists_of_a_part_of_the_set(tmp_path: Path) -> None:
    vectors, members = clustered(900, 16), np.arange(0, 900, 2)
    lists = Lists(Units(vectors), members, tmp_path)
    true, best = exact(Units(vectors), members, members, 3)
    np.testing.assert_allclose(lists.search(members, 3, lists.count)[1], best, atol=1e-6)
    assert 1 <= lists.probes_for(members[:50], true[:50], 0.9) <= lists.count
