from __future__ import annotations

import itertools

import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR

from lgrep.errors import DataError
from lgrep.evaluation.retrieval import chance_metrics, rank_metrics, retrieval_ranks


def test_metrics_equal_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(40, 6, generator=generator), torch.randn(90, 6, generator=generator)
    query_ids = torch.randint(30, (40,), generator=generator)
    gallery_ids = torch.cat([torch.arange(30), torch.randint(30, (60,), generator=generator)])
    similarity = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=2)
    target = query_ids[:, None] == gallery_ids[None]
    index = torch.arange(40)[:, None].expand_as(target)
    # torchmetrics takes no items of similarity <= 0
    flat = (similarity + 2).flatten(), target.flatten(), index.flatten()
    values = rank_metrics(retrieval_ranks(queries, gallery, query_ids, gallery_ids))
    assert values["MRR"] == pytest.approx(RetrievalMRR()(flat[0], flat[1], indexes=flat[2]).item(), abs=1e-6)
    for k in (1, 5):
        expected = RetrievalHitRate(top_k=k)(flat[0], flat[1], indexes=flat[2]).item()
        assert values[f"R@{k}"] == pytest.approx(expected, abs=1e-6)
    blocked = retrieval_ranks(queries, gallery, query_ids, gallery_ids, block_bytes=1)
    assert torch.equal(blocked, retrieval_ranks(queries, gallery, query_ids, gallery_ids))


def test_a_collapsed_encoder_gets_the_last_rank() -> None:
    same = torch.ones(4, 3)
    assert retrieval_ranks(same, same, torch.arange(4), torch.arange(4)).tolist() == [4, 4, 4, 4]


def test_chance_is_the_mean_over_all_rankings() -> None:
    query_ids, gallery_ids = torch.tensor([0, 1]), torch.tensor([0, 0, 1, 2, 3])
    ranks = [
        1 + min(place for place, item in enumerate(order) if item == query)
        for query in (0, 1)
        for order in itertools.permutations(gallery_ids.tolist())
    ]
    expected = rank_metrics(torch.tensor(ranks), (1, 3))
    assert chance_metrics(query_ids, gallery_ids, (1, 3)) == pytest.approx(expected)


def test_a_query_without_a_right_item_is_named() -> None:
    with pytest.raises(DataError, match="row 1"):
        retrieval_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 9]), torch.tensor([0, 1]))
