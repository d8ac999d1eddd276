from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional

from lgrep.errors import ConfigError
from lgrep.evaluation.protocols import base
from lgrep.evaluation.protocols.base import Score, build_set, names, register
from lgrep.evaluation.protocols.digits import DigitsProtocol, stratified_parts
from lgrep.evaluation.protocols.emoji import EmojiProtocol


@pytest.fixture(scope="module")
def emoji() -> EmojiProtocol:
    return EmojiProtocol()


def _scores(protocol: EmojiProtocol | DigitsProtocol, features: torch.Tensor) -> dict[str, Score]:
    return {score.evaluator: score for score in protocol.scores(features)}


def test_emoji_parts_follow_the_protocol(emoji: EmojiProtocol) -> None:
    table, parts = emoji.table, emoji._parts
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


def test_features_that_know_the_class_are_perfect(emoji: EmojiProtocol) -> None:
    labels = emoji.labels[torch.from_numpy(emoji.rows)]
    features = functional.one_hot(labels.clamp_min(0), 29).float() * (labels >= 0)[:, None]
    scores = _scores(emoji, features + 1e-3 * torch.randn(features.shape))
    assert scores["knn"].values == {"knn": 1.0, "knn_per_class": 1.0}
    assert scores["linear"].values == {"linear": 1.0, "linear_per_class": 1.0}
    assert set(scores["transfer"].values.values()) == {1.0}
    assert len(scores["transfer"].predictions) == 4


def test_features_that_know_the_caption_find_it_but_no_class(emoji: EmojiProtocol) -> None:
    captions = torch.randn(emoji.table.num_groups, 64)
    features = captions[torch.from_numpy(emoji.table.group[emoji.rows].astype(np.int64))]
    noisy = features + 1e-3 * torch.randn(features.shape)
    values = {name: value for score in emoji.scores(noisy) for name, value in score}
    assert values["R@1"] == values["MRR"] == values["cluster_R@1"] == 1.0
    assert values["knn"] < 0.2
    assert values["chance_R@1"] == pytest.approx(1 / 305)
    assert values["chance_cluster_R@1"] > values["chance_R@1"]


def test_a_drawing_never_votes_for_itself_or_its_twin(emoji: EmojiProtocol) -> None:
    # a feature of family and caption alone: nothing but the excluded items could give the class away
    table = emoji.table
    key = table.group.astype(np.int64) * 64 + table.column("family")
    _, drawing = np.unique(key[emoji.rows], return_inverse=True)
    features = torch.randn(int(drawing.max()) + 1, 64)[torch.from_numpy(drawing)]
    emoji_k1 = EmojiProtocol(table, k=1)
    assert _scores(emoji_k1, features)["transfer"].values["seen_train"] < 0.2


def test_other_folds_and_wrong_ones() -> None:
    rotated = EmojiProtocol(test_fold=3, val_fold=4)
    fold = rotated.table.caption_column("fold")[rotated.table.group]
    assert set(fold[rotated._parts["test"]]) == {3}
    assert set(fold[rotated._parts["train"]]) == {0, 1, 2}
    with pytest.raises(ConfigError, match="fold"):
        EmojiProtocol(test_fold=1)


def test_emoji_statistics_are_those_of_the_training_pictures(emoji: EmojiProtocol) -> None:
    from lgrep.checkpoints.encoder import EvaluationTransform
    from lgrep.data.emoji import rows
    from lgrep.data.pictures import decode

    plain = EvaluationTransform(24, (0.0,) * 3, (1.0,) * 3)
    train = rows(emoji.table, "train", "seen")[::5]
    pixels = torch.stack([plain(decode(emoji.table.read(int(row)))) for row in train])
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(emoji.mean), atol=0.01, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(emoji.std), atol=0.01, rtol=0)


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
    protocol = DigitsProtocol()
    features = torch.from_numpy(protocol.images).flatten(1).float() / 255
    train, test = (protocol.parts[part].numpy() for part in ("train", "test"))
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute")
    model.fit(features[train].numpy(), protocol.labels[train].numpy())
    expected = model.score(features[test].numpy(), protocol.labels[test].numpy())
    scores = _scores(protocol, features)
    assert scores["knn"].values["knn"] == pytest.approx(expected, abs=0.003)
    assert scores["linear"].values["linear"] > expected - 0.05
    assert len(scores["knn"].predictions["knn"]) == len(test)


def test_registry_takes_new_sets_and_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_SETS", dict(base._SETS))

    @register("mine")
    class Mine:
        def __init__(self, size: int = 1) -> None:
            self.size = size

    assert {"emoji", "digits", "mine"} <= set(names())
    assert build_set("mine", size=3).size == 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="'emoji'"):
        build_set("emojis")
