"""End-to-end fine-tuning of a copy of an encoder."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data.mixup import Mixup
from timm.layers import DropPath
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from lgrep.data.pictures import decode, to_rgb
from lgrep.errors import DataError
from lgrep.evaluation.features import Pictures, Transform
from lgrep.evaluation.isolation import isolated_randomness
from lgrep.optim import build_optimizer, scaled_lr, warmup_cosine

_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")  # as timm's blocks call them


@dataclass(frozen=True)
class Recipe:
    """Settings of a fine-tuning run; those of MAE's ViT-B that SynCLR takes over (arXiv 2312.17742) by default.

    Attributes:
        epochs, warmup_epochs: passes over the pictures.
        batch_size: pictures per step, made even and at most the set.
        base_lr: per 256 pictures of a batch.
        min_lr: at the end, per `base_lr` scaled likewise.
        weight_decay: of matrices.
        layer_decay: factor of the learning rate from a layer to the one before it.
        drop_path: of the last block, growing linearly from 0.
        mixup, cutmix: alpha; 0 turns one off.
        label_smoothing: of the targets.
        randaugment: timm's string; empty turns it off.
        erase: probability of erasing a rectangle.
        crop_scale: smallest area of a crop.
        ema: decay of a running mean of the weights; None: no mean.
        head_std: of the first weights of the classifier.
        precision: of the forward pass.
    """

    epochs: int = 100
    warmup_epochs: float = 20
    batch_size: int = 1024
    base_lr: float = 5e-5
    min_lr: float = 1e-6
    weight_decay: float = 0.05
    layer_decay: float = 0.65
    drop_path: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    label_smoothing: float = 0.1
    randaugment: str = "rand-m9-mstd0.5-inc1"
    erase: float = 0.25
    crop_scale: float = 0.08
    ema: float | None = 0.9999
    head_std: float = 2e-5
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass
class Tuned:
    """Fine-tuned classifiers, pictures [B, 3, H, W] -> logits [B, K].

    Attributes:
        model: with the last weights.
        averaged: with their running mean.
        drop_paths: places in blocks that paths are dropped at; 0: the network has none.
        steps: optimiser steps.
        losses: mean training loss of every epoch.
    """

    model: nn.Module
    averaged: nn.Module | None
    drop_paths: int
    steps: int
    losses: list[float]


def finetune(
    encoder: nn.Module,
    pictures: Pictures,
    labels: Tensor,
    num_classes: int,
    transform: Callable[[Image.Image], Tensor],
    recipe: Recipe,
    seed: int = 0,
    device: torch.device | None = None,
    workers: int = 0,
) -> Tuned:
    """Train a copy of an encoder and a linear classifier on it; the encoder itself and global generators stay as they are.

    Everything random follows from the seed, whatever the number of workers.

    Args:
        encoder: pictures -> features [B, D]; copied.
        pictures: N of them.
        labels: Long[N] in [0, num_classes).
        num_classes: K.
        transform: picture -> Tensor [3, H, W], for training; see `training_transform`.
        recipe: settings.
        seed: of everything.
        device: where it runs; None: the CPU.
        workers: processes that decode.
    """
    device = device or torch.device("cpu")
    batch = max(2, min(recipe.batch_size, len(labels)) // 2 * 2)  # mixing takes pictures in pairs
    steps = len(labels) // batch * recipe.epochs
    with isolated_randomness(seed, device):
        model = _Classifier(encoder, num_classes, recipe.head_std).to(device).train()
        drop_paths = set_drop_path(model.encoder, recipe.drop_path) if recipe.drop_path else 0
        peak = scaled_lr(recipe.base_lr, batch, 256)
        optimiser = build_optimizer("adamw", layer_groups(model, peak, recipe.weight_decay, recipe.layer_decay), peak)
        warmup = recipe.warmup_epochs / recipe.epochs * steps
        lowest = min(1.0, recipe.min_lr / recipe.base_lr)
        schedule = LambdaLR(optimiser, lambda step: warmup_cosine(step, warmup, steps, 1.0, lowest))
        averaged = _averaged(model, recipe.ema)
        mix = _mixup(recipe, num_classes)
        losses: list[Tensor] = []
        for step, (views, target) in enumerate(
            _batches(pictures, labels, transform, batch, recipe.epochs, seed, workers)
        ):
            _seed(step, seed, device)
            views, target = views.to(device), target.to(device)
            if mix is not None:
                views, target = mix(views, target)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                loss = cross_entropy(model(views), target, label_smoothing=0.0 if mix else recipe.label_smoothing)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            if averaged is not None:
                averaged.update_parameters(model)
            losses.append(loss.detach())
    by_epoch = torch.stack(losses).double().view(recipe.epochs, -1).mean(dim=1).tolist()
    return Tuned(model.eval(), averaged and averaged.eval(), drop_paths, steps, by_epoch)


def set_drop_path(network: nn.Module, rate: float) -> int:
    """Let the blocks of a timm network drop their residual paths, the last with `rate`; how many places there are."""
    blocks = [block for block in network.modules() if any(hasattr(block, name) for name in _DROP_PATHS)]
    places = 0
    for number, block in enumerate(blocks):
        own = rate * number / max(1, len(blocks) - 1)
        for name in _DROP_PATHS:
            if hasattr(block, name):
                setattr(block, name, DropPath(own) if own else nn.Identity())
                places += 1
    return places


def layer_groups(model: _Classifier, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose rate falls from the classifier to the first layer.

    timm's networks say what their layers are. Other networks' layers are their numbered blocks and modules with
    matrices, in order of definition; parameters of the network itself (class token, positions) belong to the first.
    """
    if hasattr(model.encoder, "group_matcher"):
        spared: set[str] = getattr(model.encoder, "no_weight_decay", set)()
        groups = param_groups_layer_decay(model.encoder, weight_decay, spared, layer_decay=layer_decay)
    else:
        groups = _groups_by_definition(model.encoder, weight_decay, layer_decay)
    made = [
        {"params": group["params"], "weight_decay": group["weight_decay"], "lr": lr * group["lr_scale"]}
        for group in groups
    ]
    made.append({"params": [model.head.weight], "weight_decay": weight_decay, "lr": lr})
    return [*made, {"params": [model.head.bias], "weight_decay": 0.0, "lr": lr}]


def _groups_by_definition(network: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    layer, keys = 0, {""}
    numbers: list[int] = []
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        first = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
        key = ".".join(parts[: first + 1]) if len(parts) > 1 else ""
        if key not in keys and parameter.ndim > 1:  # a norm belongs to the layer before it
            layer, keys = layer + 1, keys | {key}
        numbers.append(layer)
    return [
        {
            "params": [parameter],
            "weight_decay": weight_decay * (parameter.ndim > 1),
            "lr_scale": layer_decay ** (layer - number),
        }
        for number, parameter in zip(numbers, network.parameters(), strict=True)
    ]


class _Classifier(nn.Module):
    def __init__(self, encoder: nn.Module, num_classes: int, head_std: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).float().requires_grad_(True)
        self.head = nn.Linear(int(encoder.dim), num_classes)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.head.weight, std=head_std)
        nn.init.zeros_(self.head.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(pictures).flatten(1))
        return logits


class _Augmented(Dataset[tuple[Tensor, int]]):
    """Training pictures; every random choice follows from (seed, epoch, picture)."""

    def __init__(self, pictures: Pictures, labels: Tensor, transform: Transform, seed: int, order: Tensor) -> None:
        self.pictures, self.labels, self.transform, self.seed, self.order = pictures, labels, transform, seed, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        epoch, row = self.order[place].tolist()
        try:
            item = self.pictures[row]
            picture = decode(item) if isinstance(item, bytes) else to_rgb(item)
        except (OSError, ValueError, SyntaxError, DataError) as error:
            name = self.pictures.identity(row) if hasattr(self.pictures, "identity") else f"picture {row}"
            raise DataError(f"{name} cannot be decoded ({error})") from error
        key = _key(self.seed, epoch, row)
        random.seed(key)
        np.random.seed(key)
        torch.default_generator.manual_seed(key)
        return self.transform(picture), int(self.labels[row])


def _batches(
    pictures: Pictures, labels: Tensor, transform: Transform, batch: int, epochs: int, seed: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    whole = len(labels) // batch * batch
    orders = [torch.randperm(len(labels), generator=generator)[:whole] for _ in range(epochs)]
    order = torch.cat([torch.stack([torch.full_like(rows, epoch), rows], dim=1) for epoch, rows in enumerate(orders)])
    data = _Augmented(pictures, labels, transform, seed, order)
    loader: DataLoader[tuple[Tensor, int]] = DataLoader(data, batch, num_workers=workers, generator=generator)
    yield from loader


def _mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)


def _averaged(model: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _seed(step: int, seed: int, device: torch.device) -> None:
    key = _key(seed, step)
    np.random.seed(key)
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)


def _key(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
