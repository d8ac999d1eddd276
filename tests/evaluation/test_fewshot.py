"""Batched episodes against an independent loop, and what a seed means."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from made_tasks import clusters, feature_task
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from lgrep.errors import DataError
from lgrep.evaluation.episodes import EpisodeClassifier, classify, draw_episodes
from lgrep.evaluation.evaluators.fewshot import Fewshot
from lgrep.evaluation.evaluators.fewshot_ridge import FewshotRidge, ridge_scores


def task(classes: int = 12, per_class: int = 20, spread: float = 2.0):
    return feature_task(
        {"train": clusters(classes, per_class, 16, spread, 0), "test": clusters(classes, 9, 16, spread, 1)}
    )


def loop(made, episodes: int, nearest: bool, seed: int) -> np.ndarray:
    """One episode after the other with scikit-learn and its own random numbers."""
    rng = np.random.default_rng(seed)
    (x, y), (xt, yt) = [[part.numpy() for part in made.split(name)] for name in ("train", "test")]
    accuracy = []
    for _ in range(episodes):
        ways = rng.choice(np.unique(y), 5, replace=False)
        support = np.concatenate([rng.choice(np.flatnonzero(y == way), 5, replace=False) for way in ways])
        query = np.concatenate([rng.choice(np.flatnonzero(yt == way), 6, replace=False) for way in ways])
        mean = x[support].mean(0)
        s, q = [(part - mean) / np.linalg.norm(part - mean, axis=1, keepdims=True) for part in (x[support], xt[query])]
        model = KNeighborsClassifier(1) if nearest else NearestCentroid()
        accuracy.append((model.fit(s, y[support]).predict(q) == yt[query]).mean())
    return np.array(accuracy)


@pytest.mark.parametrize("classifier", ["prototype", "nearest"])
def test_equals_a_loop_with_scikit_learn(classifier: str) -> None:
    made = task()
    (score,) = Fewshot(classifier=classifier, episodes=4000)(made)
    expected = loop(made, 200, classifier == "nearest", 5)
    values = dict(score)
    spread = math.hypot(values["fewshot_ci95"], 1.96 * expected.std() / math.sqrt(len(expected)))
    assert 0.4 < expected.mean() < 0.95
    assert abs(values["fewshot"] - expected.mean()) < 1.3 * spread
    assert values["fewshot_std"] == pytest.approx(expected.std(), rel=0.15)
    hits = score.predictions["fewshot"].double() / 30
    assert values["fewshot"] == pytest.approx(hits.mean().item())
    assert values["fewshot_ci95"] == pytest.approx(1.96 * hits.std().item() / math.sqrt(4000), rel=1e-4)


def test_each_drawn_episode_is_classified_as_by_scikit_learn() -> None:
    made = task()
    (x, y), (xt, yt) = made.split("train"), made.split("test")
    episodes = next(draw_episodes(y, yt, 20, 4, 3, 5, seed=3))
    right = classify(x, xt, episodes, "prototype", centre=False, unit=False)
    for support, query, hits in zip(episodes.support, episodes.query, right, strict=True):
        model = NearestCentroid().fit(x[support.flatten()].numpy(), y[support.flatten()].numpy())
        assert hits == (model.predict(xt[query.flatten()].numpy()) == yt[query.flatten()].numpy()).sum()


@pytest.mark.parametrize("classifier", ["prototype", "nearest"])
@pytest.mark.parametrize(("centre", "unit"), [(True, True), (False, True), (True, False), (False, False)])
def test_products_of_all_pairs_classify_as_the_features_do(classifier: Any, centre: bool, unit: bool) -> None:
    (x, y), (xt, yt) = task().split("train"), task().split("test")
    x, xt = x + 30, xt + 30  # far from 0, as features behind a ReLU may be
    episodes = next(draw_episodes(y, yt, 200, 4, 3, 5, seed=3))
    shared = EpisodeClassifier(x, xt, classifier, centre, unit, episodes=5000)
    alone = EpisodeClassifier(x.double(), xt.double(), classifier, centre, unit, episodes=0)
    assert shared.products is not None and alone.products is None
    assert (shared(episodes) != alone(episodes)).sum() <= 1


def test_episodes_are_without_replacement_even_and_of_the_seed_alone() -> None:
    labels = torch.tensor([0] * 3 + [1] * 7 + [2] * 4 + [3] * 2 + [-1] * 5 + [4] * 6)
    test = torch.tensor([0, 0, 1, 1, 1, 1, 2, 4, 4, -1])
    blocks = list(draw_episodes(labels, test, 600, 2, 3, 3, seed=1))
    support = torch.cat([block.support for block in blocks])
    query, valid = torch.cat([block.query for block in blocks]), torch.cat([block.valid for block in blocks])
    assert support.shape == (600, 2, 3)
    assert (support.sort(dim=2).values.diff(dim=2) > 0).all()  # no row twice
    assert (labels[support] == labels[support][..., :1]).all() and (labels[support] >= 0).all()
    assert (labels[support][:, 0, 0] != labels[support][:, 1, 0]).all()
    assert not (labels[support] == 3).any()  # two pictures are too few for three shots
    size = torch.bincount(test[test >= 0], minlength=5)
    assert torch.equal(valid.sum(2), size[labels[support][..., 0]].clamp(max=3))
    assert (test[query] == labels[support][..., :1])[valid].all()
    first = Counter(support[labels[support] == 1].tolist())  # each of the 7 rows equally often
    assert len(first) == 7 and max(first.values()) < 1.35 * min(first.values())
    again = torch.cat([block.support for block in draw_episodes(labels, test, 300, 2, 3, 3, seed=1)])
    assert torch.equal(again, support[:300])
    torch.rand(3)
    other = next(draw_episodes(labels, test, 10, 2, 3, 3, seed=2))
    assert not torch.equal(other.support, support[:10])


def test_what_cannot_be_drawn_is_said() -> None:
    made = task(classes=4)
    assert "has 4" in (Fewshot().refusal(made) or "")
    assert Fewshot(ways=4).refusal(made) is None
    assert "'train'" in (Fewshot().refusal(feature_task({"test": clusters(6, 9)})) or "")
    with pytest.raises(DataError, match="4"):
        next(draw_episodes(made.labels_of("train"), made.labels_of("test")))
    several = torch.ones(8, 3, dtype=torch.bool)
    assert "several" in (
        Fewshot().refusal(feature_task({"train": (torch.ones(8, 2), several), "test": (torch.ones(8, 2), several)}))
        or ""
    )


def test_ridge_equals_scikit_learn_and_its_left_out_choice() -> None:
    (x, y), (xt, _) = clusters(4, 6, 10, 1.5, 0), clusters(4, 5, 10, 1.5, 1)
    found, penalty = ridge_scores(x, y, xt, (0.01, 1.0, 100.0))
    a, b = [torch.nn.functional.normalize(part.double(), dim=1).numpy() for part in (x, xt)]
    scale = ((a - a.mean(0)) ** 2).sum() / len(a)
    target = np.eye(4)[y.numpy()]
    accuracy = {}
    for relative in (0.01, 1.0, 100.0):
        model = Ridge(relative * scale)
        left = [model.fit(np.delete(a, i, 0), np.delete(target, i, 0)).predict(a[i : i + 1])[0] for i in range(24)]
        accuracy[relative] = (np.array(left).argmax(1) == y.numpy()).mean()
    assert len(set(accuracy.values())) > 1
    assert penalty == max(accuracy, key=lambda relative: (accuracy[relative], relative))
    expected = Ridge(penalty * scale).fit(a, target).predict(b)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


def test_ridge_scores_every_class_and_leaves_out_small_ones() -> None:
    made = task(classes=6, per_class=7, spread=0.3)
    (score,) = FewshotRidge(shots=(1, 5, 10))(made)
    values = dict(score)
    assert values["ridge_5shot"] > 0.95 and "ridge_10shot" not in values
    assert values["ridge_1shot"] > 0.7
    assert len(score.predictions["ridge_5shot_draw2"]) == 54
    assert FewshotRidge(shots=(10,)).refusal(made) is not None
