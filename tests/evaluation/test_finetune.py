"""Fine-tuning learns, is repeatable, leaves the measured encoder and the generators alone, and groups layers as said."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from made import picture
from made_tasks import MadeSet, feature_task
from PIL import Image
from timm.layers import DropPath

from lgrep import load_encoder
from lgrep.backbones import build_backbone
from lgrep.errors import DataError
from lgrep.evaluation.contract import Part, Subject, Task
from lgrep.evaluation.evaluators.finetune import Finetune, small_recipe
from lgrep.evaluation.finetuning import Recipe, _Classifier, finetune, layer_groups, set_drop_path
from lgrep.evaluation.training_transform import _operations, training_transform
from lgrep.records import weights_hash

SMALL: dict[str, Any] = {
    "epochs": 5,
    "warmup_epochs": 1,
    "batch_size": 7,
    "base_lr": 0.1,
    "head_std": 0.01,
    "ema": 0.5,
    "layer_decay": 0.9,
    "drop_path": 0.1,
}


def coloured(count: int, seed: int) -> tuple[list[Image.Image], torch.Tensor]:
    """Pictures that are mostly red, green or blue."""
    labels = torch.arange(count) % 3
    pictures = []
    for number, label in enumerate(labels.tolist()):
        pixels = np.asarray(picture(seed + number)).copy() // 3
        pixels[..., label] += 150
        pictures.append(Image.fromarray(pixels))
    return pictures, labels


def task(name: str = "random/timm/test_resnet", **about: Any) -> Task:
    encoder, transform = load_encoder(name, 32)
    parts = {}
    for part, (count, seed) in {"train": (30, 0), "test": (21, 500)}.items():
        pictures, labels = coloured(count, seed)
        parts[part] = Part(pictures, labels)
    subject = Subject(name, encoder, transform, weights_hash(encoder))
    return Task(subject, MadeSet(parts, num_classes=3, **about), lambda _: torch.zeros(0))


def generators() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit"])
def test_it_learns_and_leaves_everything_else_alone(name: str) -> None:
    made = task(f"random/{name}")
    evaluator = Finetune(**SMALL, mixup=0.0, cutmix=0.0, augment="vit" not in name)
    before, modes = generators(), [module.training for module in made.subject.encoder.modules()]
    (score,) = evaluator(made)
    assert generators() == before
    assert weights_hash(made.subject.encoder) == made.subject.weights_hash
    assert [module.training for module in made.subject.encoder.modules()] == modes
    assert score.settings["steps"] == 5 * (30 // 6)
    assert score.settings["losses"][-1] < score.settings["losses"][0]
    assert score.values["finetune"] > 0.6
    assert score.settings["drop_paths"] > 0


def test_a_seed_gives_the_same_weights_whatever_the_workers() -> None:
    made = task()
    evaluator = Finetune(**{**SMALL, "epochs": 1}, mixup=0.8, cutmix=1.0)
    first, made.workers = next(evaluator(made)), 2
    again, made.seed = next(evaluator(made)), 1
    other = next(evaluator(made))
    assert first.settings["losses"] == again.settings["losses"] != other.settings["losses"]
    assert torch.equal(first.predictions["finetune_ema"], again.predictions["finetune_ema"])


def test_small_sets_get_a_recipe_that_moves() -> None:
    evaluator = Finetune()
    assert evaluator.recipe(1_281_167) == evaluator.recipe(10_000) == Recipe()
    assert evaluator.recipe(9_999) == small_recipe(9_999) and small_recipe(9_999).epochs == 2
    assert small_recipe(50).epochs == 80 and small_recipe(2).epochs == 100
    typed = Finetune(epochs=7, batch_size=32, base_lr=1e-4, mixup=0.0, ema=0.9)
    assert typed.recipe(10**6) == Recipe(7, pytest.approx(1.4), 32, 1e-4, mixup=0.0, ema=0.9)
    assert typed.recipe(50).warmup_epochs == pytest.approx(0.7) and typed.recipe(50).randaugment == ""
    assert Finetune(epochs=3, warmup_epochs=20).recipe(10**6).warmup_epochs == 3
    assert Finetune(ema="none").recipe(10**6).ema is None


def test_rates_fall_from_layer_to_layer() -> None:
    encoder = build_backbone("timm/test_vit", image_size=32)
    model = _Classifier(encoder, 3, 0.01)
    groups = layer_groups(model, 1.0, 0.05, 0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    named = dict(model.encoder.named_parameters())
    blocks = [rate[id(named[f"blocks.{number}.mlp.fc1.weight"])] for number in range(len(model.encoder.blocks))]
    assert all(one == pytest.approx(2 * before) for before, one in zip(blocks, blocks[1:], strict=False))
    assert rate[id(named["patch_embed.proj.weight"])] == pytest.approx(blocks[0] / 2)
    assert rate[id(model.head.weight)] == 1.0 and decay[id(model.head.weight)] == 0.05
    assert decay[id(named["blocks.0.mlp.fc1.bias"])] == decay[id(named["pos_embed"])] == 0.0


def test_layers_of_other_libraries_are_their_blocks() -> None:
    model = _Classifier(build_backbone("torchvision/resnet18"), 3, 0.01)
    rate = {id(parameter): group["lr"] for group in layer_groups(model, 1.0, 0.0, 0.5) for parameter in group["params"]}
    named = {name: rate[id(parameter)] for name, parameter in model.encoder.named_parameters()}
    layers = ["layer4.1", "layer4.0", "layer3.1", "layer3.0", "layer2.1", "layer2.0", "layer1.1", "layer1.0"]
    assert [named[f"{layer}.conv2.weight"] for layer in layers] == [0.5**number for number in range(8)]
    assert named["conv1.weight"] == named["bn1.weight"] == 0.5**8 and len(rate) == len(list(model.parameters()))


def test_drop_path_grows_to_the_last_block() -> None:
    encoder = build_backbone("timm/test_resnet")
    names = list(encoder.state_dict())
    assert set_drop_path(encoder, 0.3) == len(
        [name for name in dict(encoder.named_modules()) if name.endswith("drop_path")]
    )
    rates = [module.drop_prob for module in encoder.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(0.3)
    assert list(encoder.state_dict()) == names


def test_a_broken_picture_is_named() -> None:
    pictures, labels = coloured(6, 0)
    broken: Any = [*pictures[:5], b"no picture"]
    encoder, transform = load_encoder("random/timm/test_resnet", 32)
    with pytest.raises(DataError, match="picture 5"):
        finetune(encoder, broken, labels, 3, transform, Recipe(epochs=1, warmup_epochs=0))


@pytest.mark.parametrize("kind", ["rand-m9-mstd0.5-inc1", "original", "augmix-m5-w4-d2"])
def test_every_strength_of_an_augmentation_can_be_drawn(kind: str) -> None:
    transform: Any = training_transform(32, (0.5,) * 3, (0.25,) * 3, "bilinear", Recipe(randaugment=kind))
    found = [operation for operation in _operations(transform) if operation.name.startswith("Posterize")]
    grey = Image.new("RGB", (8, 8), (200, 150, 100))
    for operation in found:
        shown = [operation.aug_fn(grey, bits).getpixel((0, 0)) for bits in (8, 2, 0)]
        assert shown == [(200, 150, 100), (192, 128, 64), (0, 0, 0)]
    assert found and transform(picture(0)).shape == (3, 32, 32)


def test_what_has_nothing_to_tune_is_refused() -> None:
    assert "no weights" in (Finetune().refusal(task("pixels")) or "")
    rows = torch.randn(3, 2), torch.tensor([0, -1, -1])
    assert "fewer than two" in (Finetune().refusal(feature_task({"train": rows, "test": rows}, num_classes=2)) or "")
    assert Finetune().refusal(task()) is None
