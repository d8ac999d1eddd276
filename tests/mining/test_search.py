import builtins
from typing import Any

import numpy as np
import pytest

from lgrep.errors import ConfigError
from lgrep.mining.search import nearest, require_faiss


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
