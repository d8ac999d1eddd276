from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lgrep.errors import DataError
from lgrep.evaluation.knn import knn_grid, knn_predict


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (203,), generator=generator)
    centres = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    gallery = centres[labels] + 1.5 * torch.randn(203, 12, generator=generator, dtype=torch.float64)
    return gallery, labels, torch.randn(71, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 4, 20, 203])
def test_plain_votes_equal_scikit_learn(blobs: tuple[torch.Tensor, ...], k: int) -> None:
    gallery, labels, queries = blobs
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(gallery.numpy(), labels.numpy())
    assert knn_predict(gallery, labels, queries, k=k).tolist() == model.predict(queries.numpy()).tolist()


def test_weighted_votes_equal_scikit_learn(blobs: tuple[torch.Tensor, ...]) -> None:
    gallery, labels, queries = blobs

    def weigh(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.07)

    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=weigh)
    model.fit(gallery.numpy(), labels.numpy())
    assert knn_predict(gallery, labels, queries, k=20, temperature=0.07).tolist() == model.predict(queries).tolist()


def test_blocks_do_not_change_the_result(blobs: tuple[torch.Tensor, ...]) -> None:
    gallery, labels, queries = blobs
    whole = knn_predict(gallery, labels, queries)
    assert torch.equal(knn_predict(gallery, labels, queries, block_bytes=1), whole)
    assert torch.equal(knn_predict(gallery, labels, queries, block_bytes=7 * 8 * len(gallery)), whole)


def test_equal_similarities_take_the_lowest_rows() -> None:
    gallery = torch.tensor([[1.0, 0.0]]).repeat(50, 1)
    labels = torch.tensor([3, 3, 1] + [0] * 47)
    assert knn_predict(gallery, labels, torch.tensor([[2.0, 0.0]]), k=3).tolist() == [3]


def test_equal_votes_take_the_lowest_class() -> None:
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    assert knn_predict(gallery, torch.tensor([2, 1, 0]), torch.tensor([[1.0, 0.0]]), k=2).tolist() == [1]


def test_small_temperature_does_not_overflow() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3]])
    labels = torch.tensor([1, 0, 0])
    assert knn_predict(gallery, labels, gallery[:1], k=3, temperature=1e-3).tolist() == [1]


def test_excluded_items_do_not_vote() -> None:
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 2])
    own = (torch.tensor([7]), torch.tensor([7, 8, 9]))
    assert knn_predict(gallery, labels, gallery[:1], k=1, exclude=own).tolist() == [1]
    both = (torch.tensor([7]), torch.tensor([7, 7, 9]))
    assert knn_predict(gallery, labels, gallery[:1], k=3, exclude=both).tolist() == [2]


@pytest.mark.parametrize("k", [0, 4])
def test_wrong_k_names_the_range(k: int) -> None:
    with pytest.raises(DataError, match="1..3"):
        knn_predict(torch.eye(3), torch.arange(3), torch.eye(3), k=k)


def test_no_queries_give_no_predictions() -> None:
    assert knn_predict(torch.eye(3), torch.arange(3), torch.zeros(0, 3), k=1).shape == (0,)


def test_a_grid_equals_its_values_one_by_one(blobs: tuple[torch.Tensor, ...]) -> None:
    gallery, labels, queries = blobs
    # coarse values make many equal similarities, also across the borders of the grid
    gallery, queries = gallery.round(), torch.cat([queries.round(), gallery.round()[:20]])
    ks, temperatures = (1, 3, 10, 50, 203), (None, 0.07)
    found = knn_grid(gallery, labels, queries, ks, 5, temperatures, block_bytes=3000)
    assert set(found) == {(k, temperature) for k in ks for temperature in temperatures}
    for (k, temperature), predicted in found.items():
        assert torch.equal(predicted, knn_predict(gallery, labels, queries, k, 5, temperature))


def test_duplicates_are_counted_in_the_order_of_their_rows() -> None:
    gallery = torch.eye(3).repeat(40, 1)
    labels = torch.arange(120) // 3 % 7
    found = knn_grid(gallery, labels, torch.eye(3), (2, 5, 30), 7)
    for k in (2, 5, 30):
        expected = torch.bincount(labels[0:120:3][:k], minlength=7).argmax()
        assert found[k, None].tolist() == [int(expected)] * 3
