"""Variants with some of a data set's classes, read from folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import picture
from made_tasks import MadeSet
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from lgrep.checkpoints.encoder import Pixels
from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.contract import Part, Subject, Task
from lgrep.evaluation.evaluators.robustness import Robustness, shared_classes
from lgrep.evaluation.features import extract_features
from lgrep.evaluation.tasks import Resources, make_task

COLOURS = ("red", "green", "blue", "white")


def coloured(colour: str, seed: int, strength: int) -> Image.Image:
    pixels = np.asarray(picture(seed)).copy() // 3
    channels = [0, 1, 2] if colour == "white" else [COLOURS.index(colour)]
    pixels[..., channels] += np.uint8(strength)
    return Image.fromarray(pixels)


class Mean(Pixels):
    """The mean colour."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(dim=(2, 3))


def words(texts: list[str]) -> Tensor:
    """The colours that texts speak of."""
    vectors = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "blue": [0, 0, 1.0], "white": [1.0, 1, 1]}
    return normalize(torch.tensor([next(v for k, v in vectors.items() if k in text) for text in texts]), dim=1)


def task(text: bool = False) -> Task:
    parts = {}
    for part, seed in {"train": 0, "test": 1000}.items():
        labels = torch.arange(32) % 4
        pictures = [coloured(COLOURS[label], seed + row, 90) for row, label in enumerate(labels.tolist())]
        parts[part] = Part(pictures, labels)
    dataset = MadeSet(parts, 4, COLOURS)
    subject = Subject("mean", Mean(8), EvaluationTransform(8, (0.2,) * 3, (0.2,) * 3), "0" * 16)
    if text:
        subject.text, subject.to_text_space = words, lambda rows: normalize(rows, dim=1)
    features = {
        name: extract_features(subject.encoder, part.pictures, subject.transform) for name, part in parts.items()
    }
    return Task(subject, dataset, features.__getitem__)


def variant(folder: Path, colours: tuple[str, ...], strength: int = 90) -> str:
    for number, colour in enumerate(colours):
        place = folder / "test" / colour
        place.mkdir(parents=True)
        for row in range(6):
            shown = colour if colour in COLOURS else "red"
            coloured(shown, 5000 + 10 * number + row, strength).save(place / f"{row}.png")
    file = folder / "faint.yaml"
    file.write_text(f"_target_: lgrep.evaluation.datasets.folder.FolderSet\nroot: {folder}\n")
    return str(file)


def test_a_variant_is_scored_among_its_own_classes(tmp_path: Path) -> None:
    made = task(text=True)
    evaluator = Robustness(variants=(variant(tmp_path, ("blue", "red", "plaid"), 60), "imagenet_a"), root=None)
    assert evaluator.refusal(made) is None
    linear, zeroshot = list(evaluator(made))
    assert linear.evaluator == "robustness_linear" and zeroshot.evaluator == "robustness_zeroshot"
    # 6 blue and 6 red pictures; nothing is plaid in the data set
    assert next(iter(linear.settings["variants"].values()))["pictures"] == 12
    for score, head in ((linear, "linear"), (zeroshot, "zeroshot")):
        found = score.predictions[f"faint_{head}"]
        assert set(found.tolist()) <= {0, 2} and len(found) == 12
        assert score.values[f"faint_{head}"] >= score.values[f"faint_{head}_all"]
        assert score.values[f"faint_{head}_clean"] > 0.9
    expected = torch.tensor([2] * 6 + [0] * 6)
    assert linear.values["faint_linear"] == pytest.approx(
        (linear.predictions["faint_linear"] == expected).double().mean()
    )
    pictures = [coloured(c, 5000 + 10 * n + r, 60) for n, c in enumerate(("blue", "red")) for r in range(6)]
    features = extract_features(made.subject.encoder, pictures, made.subject.transform)
    cosines = normalize(features, dim=1) @ words(["red", "blue"]).T
    assert torch.equal(zeroshot.predictions["faint_zeroshot"], torch.tensor([0, 2])[cosines.argmax(1)])
    assert "imagenet_a" in str(linear.settings["variants"]["imagenet_a"])


def test_features_of_variants_are_kept(tmp_path: Path) -> None:
    made, seen = task(), []
    made.subject.encoder.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    evaluator = Robustness(variants=(variant(tmp_path / "v", ("blue", "red")),), heads=("linear",))
    resources = Resources(cache=FeatureCache(tmp_path / "cache"))
    (first,) = evaluator(make_task(made.subject, made.dataset, resources))
    assert 12 in seen
    seen.clear()
    (again,) = evaluator(make_task(made.subject, made.dataset, resources))
    assert again.values == first.values and max(seen) == 2  # the two that are looked at


def test_without_variants_it_is_refused(tmp_path: Path) -> None:
    reason = Robustness(root=str(tmp_path)).refusal(task()) or ""
    assert "imagenet_a is not in" in reason
    assert "shares classes" in (Robustness(variants=(variant(tmp_path, ("plaid", "striped")),)).refusal(task()) or "")
    made = task()
    made.dataset.made.pop("train")  # type: ignore[attr-defined]
    assert "no text tower" in (Robustness().refusal(made) or "")


def test_classes_are_matched_by_imagenet_s_numbers_then_by_name() -> None:
    labels: Any = torch.zeros(0, dtype=torch.long)
    one = MadeSet({"test": Part([], labels)}, 3, ("missile", "dog", "missile"))
    two = MadeSet({"test": Part([], labels)}, 2, ("projectile", "missile"))
    assert shared_classes(one, two).tolist() == [-1, 0]
    one.imagenet_classes, two.imagenet_classes = (657, 207, 744), (744, 3)  # type: ignore[attr-defined]
    assert shared_classes(one, two).tolist() == [2, -1]
