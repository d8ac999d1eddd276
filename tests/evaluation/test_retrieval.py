from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from made_tasks import feature_task
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR

from lgrep.errors import DataError
from lgrep.evaluation.evaluators.retrieval import Retrieval
from lgrep.evaluation.retrieval import chance_metrics, pair_ranks, rank_metrics, retrieval_ranks


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


def test_a_query_of_the_gallery_does_not_find_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    features, ids = torch.randn(30, 5, generator=generator), torch.arange(30) // 3
    ranks = retrieval_ranks(features, features, ids, ids, block_bytes=700, same_set=True)
    for row in range(30):
        others = torch.tensor([other for other in range(30) if other != row])
        alone = retrieval_ranks(features[row : row + 1], features[others], ids[row : row + 1], ids[others])
        assert ranks[row] == alone
    with pytest.raises(DataError, match="row 2"):
        retrieval_ranks(torch.eye(3), torch.eye(3), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), same_set=True)


def test_pairs_of_ids_give_the_ranks_of_ids() -> None:
    queries, gallery = torch.randn(9, 4), torch.randn(20, 4)
    query_ids, gallery_ids = torch.arange(9) % 5, torch.arange(20) % 5
    pairs = (query_ids[:, None] == gallery_ids[None]).nonzero()
    shuffled = pairs[torch.randperm(len(pairs))]
    expected = retrieval_ranks(queries, gallery, query_ids, gallery_ids)
    assert torch.equal(pair_ranks(queries, gallery, shuffled, block_bytes=200), expected)
    with pytest.raises(DataError, match="row 8"):
        pair_ranks(queries, gallery, pairs[pairs[:, 0] < 8])


def test_captions_and_pictures_find_each_other() -> None:
    """Against a dense computation with several captions per picture, some shared, some pictures without."""
    texts = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}
    captions = [["a", "b"], ["c"], [], ["a", "d"], ["e", "e"]]
    images, words = torch.randn(5, 6), torch.randn(5, 6)

    def encode(asked: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(words[[texts[text] for text in asked]], dim=1)

    task = feature_task({"test": (images, torch.tensor([0, 1, 2, 3, -1]))}, {"test": captions}, encode, lambda x: x)
    (score,) = Retrieval(recall_at=(1, 3))(task)  # every class has one picture: nothing to find among pictures
    similarity = torch.nn.functional.cosine_similarity(images[:, None], words[None], dim=2)
    to_text, to_image = [], []
    for row, own in enumerate(captions):
        right = torch.tensor([texts[text] for text in own], dtype=torch.long)
        if len(own):
            best = similarity[row][right].max()
            to_text.append(1 + int((similarity[row] > best).sum()))
        for text in own:
            holders = [other for other, names in enumerate(captions) if text in names]
            best = similarity[holders, texts[text]].max()
            to_image.append(1 + int((similarity[:, texts[text]] > best).sum()))
    assert score.predictions["text_retrieval"].tolist() == to_text
    assert score.predictions["image_retrieval"].tolist() == to_image
    assert score.values["image_retrieval_R@3"] == pytest.approx(sum(rank <= 3 for rank in to_image) / len(to_image))
    assert score.values["text_retrieval_median_rank"] == pytest.approx(float(np.median(to_text)))
    (own,) = Retrieval(shared_captions=False)(task)
    assert (own.predictions["image_retrieval"] >= score.predictions["image_retrieval"]).all()
    assert own.predictions["image_retrieval"][0] >= 1 + int(similarity[3, 0] > similarity[0, 0])


def test_pictures_of_a_class_find_each_other() -> None:
    features, labels = torch.randn(12, 4), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 5, -1])
    task = feature_task({"test": (features, labels)})
    (score,) = Retrieval()(task)
    cosine = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)[:11, :11]
    cosine.fill_diagonal_(-2)
    hit = [labels[int(row.argmax())] == label for row, label in zip(cosine[:10], labels, strict=False)]
    assert score.values["same_class_R@1"] == pytest.approx(sum(map(int, hit)) / 10)
    assert score.settings["queries"] == 10 and score.settings["gallery"] == 10
    assert "no text tower" in (Retrieval(kinds=("image_text",)).refusal(task) or "")
    assert "no part" in (Retrieval(part="validation").refusal(task) or "")
