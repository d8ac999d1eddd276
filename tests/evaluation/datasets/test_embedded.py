"""The two sets that are always at hand, and what only the emoji set can measure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional

from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.data.emoji import rows
from lgrep.data.pictures import decode
from lgrep.errors import ConfigError
from lgrep.evaluation.contract import EvaluationSet, Score, Subject, Task
from lgrep.evaluation.datasets.digits import DigitsSet, stratified_parts
from lgrep.evaluation.datasets.emoji import EmojiSet
from lgrep.evaluation.evaluators import build_evaluators
from lgrep.evaluation.evaluators.emoji import EmojiEvaluator


@pytest.fixture(scope="module")
def emoji() -> EmojiSet:
    return EmojiSet()


def _task(dataset: EvaluationSet, features_of: Callable[[str], Tensor]) -> Task:
    return Task(Subject("made", nn.Identity(), EvaluationTransform(8), "0"), dataset, features_of)


def _scores(dataset: EvaluationSet, features_of: Callable[[str], Tensor], *names: str) -> dict[str, Score]:
    task = _task(dataset, features_of)
    return {score.evaluator: score for evaluator in build_evaluators(names).values() for score in evaluator(task)}


def test_emoji_parts_follow_the_protocol(emoji: EmojiSet) -> None:
    table, parts = emoji.table, emoji.rows
    designer = table.column("designer").astype(str)
    fold = table.caption_column("fold")[table.group]
    cluster = table.caption_column("cluster").astype(str)[table.group]
    for part in ("train", "validation", "test"):
        assert "twemoji" not in designer[parts[part]]
        assert (table.column("label")[parts[part]] >= 0).all()
    assert set(fold[parts["train"]]) == {2, 3, 4}
    assert set(fold[parts["validation"]]) == {1}
    assert set(fold[parts["test"]]) == {0}
    assert not set(cluster[parts["train"]]) & set(cluster[parts["test"]])
    assert set(designer[parts["query"]]) == {"twemoji"}
    assert set(designer[parts["target"]]) == {"noto"}
    assert np.array_equal(table.group[parts["query"]], table.group[parts["target"]])
    assert len(parts["query"]) == 305


@pytest.mark.parametrize("make", [EmojiSet, DigitsSet])
def test_parts_are_places_of_one_pool(make: Callable[[], EvaluationSet]) -> None:
    dataset = make()
    parts = dataset.parts()
    assert len({id(part.pool) for part in parts.values()}) == 1
    for name, part in parts.items():
        assert part is dataset.parts()[name]
        assert part.pool is not None and part.positions is not None
        assert len(part.pictures) == len(part.labels) == len(part.positions)
        for place in (0, len(part.labels) // 2, len(part.labels) - 1):
            assert part.pictures[place] == part.pool[int(part.positions[place])], name
    for name in ("train", "validation", "test"):
        assert int(parts[name].labels.min()) >= 0 and int(parts[name].labels.max()) < dataset.num_classes
    assert len(dataset.class_names) == dataset.num_classes
    assert all(template.count("{}") == 1 for template in dataset.templates)


def test_features_that_know_the_class_are_perfect(emoji: EmojiSet) -> None:
    def features_of(part: str) -> Tensor:
        labels = emoji.parts()[part].labels
        known = functional.one_hot(labels.clamp_min(0), 29).float() * (labels >= 0)[:, None]
        return known + 1e-3 * torch.randn(known.shape)

    scores = _scores(emoji, features_of, "knn", "linear", "emoji")
    assert scores["knn"].values["knn"] == scores["knn"].values["knn_per_class"] == 1.0
    assert scores["linear"].values["linear"] == scores["linear"].values["linear_per_class"] == 1.0
    assert set(scores["transfer"].values.values()) == {1.0}
    assert len(scores["transfer"].predictions) == 4


def test_features_that_know_the_caption_find_it_but_no_class(emoji: EmojiSet) -> None:
    captions = torch.randn(emoji.table.num_groups, 64)

    def features_of(part: str) -> Tensor:
        features = captions[emoji.caption_groups(part)]
        return features + 1e-3 * torch.randn(features.shape)

    values = {name: value for score in _scores(emoji, features_of, "emoji").values() for name, value in score}
    assert values["R@1"] == values["MRR"] == values["cluster_R@1"] == 1.0
    assert values["seen_test"] < 0.1 < values["seen_train"]
    assert values["chance_R@1"] == pytest.approx(1 / 305)
    assert values["chance_cluster_R@1"] > values["chance_R@1"]


def test_a_drawing_never_votes_for_itself_or_its_twin(emoji: EmojiSet) -> None:
    # a feature of family and caption alone: nothing but the excluded items could give the class away
    numbers = torch.cat([emoji.drawings(part) for part in emoji.rows]).unique()
    drawn = torch.randn(len(numbers), 64)
    task = _task(emoji, lambda part: drawn[torch.searchsorted(numbers, emoji.drawings(part))])
    values = {name: value for score in EmojiEvaluator(k=1)(task) for name, value in score}
    assert values["seen_train"] < 0.2


def test_other_folds_and_wrong_ones() -> None:
    rotated = EmojiSet(test_fold=3, val_fold=4)
    fold = rotated.table.caption_column("fold")[rotated.table.group]
    assert set(fold[rotated.rows["test"]]) == {3}
    assert set(fold[rotated.rows["train"]]) == {0, 1, 2}
    assert rotated.settings["test_fold"] == 3
    with pytest.raises(ConfigError, match="fold"):
        EmojiSet(test_fold=1)


def test_emoji_statistics_are_those_of_the_training_pictures(emoji: EmojiSet) -> None:
    plain = EvaluationTransform(24, (0.0,) * 3, (1.0,) * 3)
    train = rows(emoji.table, "train", "seen")[::5]
    pixels = torch.stack([plain(decode(emoji.table.read(int(row)))) for row in train])
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(emoji.mean), atol=0.01, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(emoji.std), atol=0.01, rtol=0)


def test_the_emoji_evaluator_refuses_other_sets(emoji: EmojiSet) -> None:
    evaluator = EmojiEvaluator()
    assert evaluator.refusal(_task(emoji, torch.zeros)) is None  # type: ignore[arg-type]
    assert "emoji set only" in str(evaluator.refusal(_task(DigitsSet(), torch.zeros)))  # type: ignore[arg-type]


def test_digits_split_is_stratified_and_fixed() -> None:
    labels = torch.randint(4, (203,))
    parts = stratified_parts(labels)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(203))
    torch.manual_seed(5)
    assert all(torch.equal(rows, stratified_parts(labels)[part]) for part, rows in parts.items())
    for label in range(4):
        count = int((labels == label).sum())
        assert abs(int((labels[parts["test"]] == label).sum()) - 0.2 * count) <= 1


def test_digits_from_their_pixels_equal_scikit_learn() -> None:
    digits = DigitsSet()
    pixels = torch.from_numpy(digits.images).flatten(1).float() / 255
    train, test = digits.positions["train"], digits.positions["test"]
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute")
    model.fit(pixels[train].numpy(), digits.labels[train].numpy())
    expected = model.score(pixels[test].numpy(), digits.labels[test].numpy())
    scores = _scores(digits, lambda part: pixels[digits.positions[part]], "knn", "linear")
    assert scores["knn"].values["knn"] == pytest.approx(expected, abs=0.003)
    assert scores["linear"].values["linear"] > expected - 0.05
    assert len(scores["knn"].predictions["knn"]) == len(test)
