"""Zero-shot scores against open_clip's own loop, and prompts from every source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from made_tasks import feature_task
from sklearn.metrics import recall_score, roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import normalize

from lgrep import load_encoder
from lgrep.errors import ConfigError, DataError
from lgrep.evaluation.average_precision import mean_average_precision
from lgrep.evaluation.evaluators.zeroshot import Zeroshot
from lgrep.evaluation.prompts import make_prompts
from lgrep.evaluation.text_models import Space, TextSide, text_side

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAMES = ("dog", "polar bear", "car {}", "tree", "house", "boat", "dog")
TEMPLATES = ("a photo of a {}.", "{} in the wild", "art of the {}")


class Hashed(nn.Module):
    """Letters of texts, counted: any fixed function will do."""

    def forward(self, texts: list[str]) -> Tensor:
        return torch.tensor([[text.count(letter) + 0.1 for letter in "aeioudrtlbcphs{}"] for text in texts])


def simple(labels: Tensor, **about: Any) -> Any:
    features = torch.randn(len(labels), 16)
    return feature_task({"test": (features, labels)}, None, Hashed(), lambda rows: normalize(rows, dim=1), **about)


def test_equals_the_loop_of_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-test", TINY)
    encoder, _ = load_encoder("random/open_clip/tiny-test", seed=1)
    found = text_side("random/open_clip/tiny-test", encoder, seed=1)
    assert found is not None
    torch.manual_seed(1)
    model = open_clip.create_model("tiny-test").eval()
    pictures, labels = torch.randn(40, 3, 32, 32), torch.randint(7, (40,))
    with torch.no_grad():
        task = feature_task(
            {"test": (encoder(pictures), labels)},
            None,
            *found[:2],
            class_names=NAMES,
            templates=TEMPLATES,
            num_classes=7,
        )
        weights = open_clip.build_zero_shot_classifier(
            model, open_clip.get_tokenizer("tiny-test"), NAMES, [lambda c, t=t: t.replace("{}", c) for t in TEMPLATES]
        )
        logits = 100.0 * model.encode_image(pictures, normalize=True) @ weights
    (score,) = Zeroshot()(task)
    five = logits.topk(5, 1).indices
    assert torch.equal(score.predictions["zeroshot"], logits.argmax(1))
    assert score.values["zeroshot"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert score.values["zeroshot_top5"] == pytest.approx((five == labels[:, None]).any(1).double().mean().item())
    assert score.values["zeroshot_per_class"] == pytest.approx(
        recall_score(labels, logits.argmax(1), average="macro", labels=labels.unique(), zero_division=0)
    )
    assert score.settings["repeated_class_names"] == ["dog"]
    assert score.settings["prompts"] == 18  # the second dog's are the first's


def test_two_spaces_are_mixed_without_temperatures() -> None:
    heads = [nn.Linear(16, 6, bias=False) for _ in range(4)]
    side = TextSide(Hashed(), {"z": Space(heads[0], heads[1], 50.0), "h": Space(heads[2], heads[3], 2.0)})
    features, labels = torch.randn(30, 16), torch.randint(7, (30,))
    task = feature_task({"test": (features, labels)}, None, side, side.place, class_names=NAMES, num_classes=7)
    (score,) = Zeroshot(templates=TEMPLATES, mixes=(0.3,))(task)
    cosines = []
    with torch.no_grad():
        for image, text in (heads[:2], heads[2:]):
            classes = [normalize(text(Hashed()([t.replace("{}", n) for t in TEMPLATES])), dim=1).mean(0) for n in NAMES]
            cosines.append(normalize(image(features), dim=1) @ normalize(torch.stack(classes), dim=1).T)
    for suffix, expected in (("z", cosines[0]), ("h", cosines[1]), ("zh_0.3", 0.3 * cosines[0] + 0.7 * cosines[1])):
        assert torch.equal(score.predictions[f"zeroshot_{suffix}"], expected.argmax(1))
    assert score.headline == ("zeroshot_z",)


def test_metrics_of_two_classes_and_of_several_labels() -> None:
    labels = torch.tensor([0, 1, 1, -1, 0, 1, 0])
    task = simple(labels, class_names=("meme", "hateful meme"), metric="roc_auc")
    (score,) = Zeroshot()(task)
    weights = torch.stack(
        [
            normalize(Hashed()([f"a photo of a {n}.", f"a picture of the {n}."]), dim=1).mean(0)
            for n in task.dataset.class_names
        ]
    )
    cosines = normalize(task.features_of("test"), dim=1) @ normalize(weights, dim=1).T
    kept = labels >= 0
    assert score.values["zeroshot_roc_auc"] == pytest.approx(
        roc_auc_score(labels[kept], (cosines[:, 1] - cosines[:, 0])[kept]), abs=1e-9
    )
    assert score.headline == ("zeroshot_roc_auc",)
    several = torch.rand(40, 3) < 0.4
    task = simple(several, class_names=("a", "b", "c"), metric="map11")
    (score,) = Zeroshot(templates=("{}",))(task)
    cosines = normalize(task.features_of("test"), dim=1) @ normalize(Hashed()(["a", "b", "c"]), dim=1).T
    assert score.values["zeroshot_map11"] == pytest.approx(mean_average_precision(cosines, several))
    assert score.headline == ("zeroshot_map11",) and not score.predictions


def test_eleven_point_average_precision_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(60, 4)), rng.random((60, 4)) < [0.5, 0.2, 0.05, 0.0]
    expected = []
    for score, label in zip(scores.T, labels.T, strict=True):
        if not label.any():
            continue
        points = []
        for cut in sorted(score, reverse=True):
            taken = score >= cut
            points.append(((taken & label).sum() / label.sum(), (taken & label).sum() / taken.sum()))
        expected.append(np.mean([max(p for r, p in points if r >= level / 10 - 1e-9) for level in range(11)]))
    found = mean_average_precision(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found == pytest.approx(np.mean(expected))
    tied = torch.zeros(10, 1)  # one score for all: the precision is the share of positives
    assert mean_average_precision(tied, torch.arange(10)[:, None] < 3) == pytest.approx(0.3)
    with pytest.raises(DataError):
        mean_average_precision(tied, tied.bool())


def test_names_and_templates_from_files(tmp_path: Path) -> None:
    task = simple(torch.tensor([0, 1, 0]), num_classes=2)
    assert "class names" in (Zeroshot().refusal(task) or "")
    synonyms = tmp_path / "labels.json"
    synonyms.write_text(json.dumps({"other": ["x"], "made": [["happy", "smiling"], "sad"]}))
    lines = tmp_path / "templates.txt"
    lines.write_text("﻿a {} face\n\nphoto: {}\r\n", encoding="utf-8")
    prompts = make_prompts(task.dataset, str(synonyms), str(lines))
    assert prompts.texts == [
        "a happy face",
        "a smiling face",
        "photo: happy",
        "photo: smiling",
        "a sad face",
        "photo: sad",
    ]
    assert prompts.members == [[0, 1, 2, 3], [4, 5]]
    assert Zeroshot(classes=str(synonyms)).refusal(task) is None
    assert len(make_prompts(task.dataset, str(synonyms), "imagenet").templates) == 80


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("3", "must hold a list"),
        ('{"x": []}', "has no 'made'"),
        ('["a"]', "gives 1 names"),
        ('["a", ""]', "no name"),
    ],
)
def test_wrong_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    file.write_text(content)
    with pytest.raises((ConfigError, DataError), match=message):
        make_prompts(simple(torch.tensor([0, 1])).dataset, str(file))


def test_wrong_choices_are_named() -> None:
    task = simple(torch.tensor([0, 5]), class_names=("a", "b"), num_classes=2)
    with pytest.raises(ConfigError, match="one {}"):
        make_prompts(task.dataset, templates=("no place",))
    with pytest.raises(ConfigError, match="no such file"):
        make_prompts(task.dataset, templates="imagnet")
    with pytest.raises(DataError, match="labels go up to 5"):
        list(Zeroshot()(task))
    without = feature_task({"test": (torch.randn(2, 4), torch.tensor([0, 1]))}, class_names=("a", "b"))
    assert "no text tower" in (Zeroshot().refusal(without) or "")
