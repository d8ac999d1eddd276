"""End-to-end fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.features import Transform, extract_features
from lgrep.evaluation.finetuning import Recipe, finetune
from lgrep.evaluation.linear import mean_per_class, top1
from lgrep.evaluation.training_transform import training_transform

Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
LARGE = 10_000  # training pictures from which the published recipe (for 1.28 million) is followed to the letter
SHOWN, FEWEST_EPOCHS = 4000, 2  # of a small set: pictures that are shown and epochs, whichever is longer


def small_recipe(pictures: int) -> Recipe:
    """A quick look at a small set, which would hardly see a step of the published recipe.

    4,000 pictures or two epochs in small batches at a higher rate, without what keeps long training from
    overfitting (mixing, RandAugment, erasing, drop path, a running mean), and larger crops.
    """
    epochs = min(Recipe.epochs, max(FEWEST_EPOCHS, math.ceil(SHOWN / pictures)))
    return Recipe(
        epochs, 0.1 * epochs, 64, 8e-3, drop_path=0.0, mixup=0.0, cutmix=0.0, randaugment="", erase=0.0,
        crop_scale=0.35, ema=None, head_std=0.01,
    )  # fmt: skip


class Finetune:
    """All weights trained with the labels of the training part, tested once with the last weights.

    AdamW with a cosine, learning rates that fall from layer to layer, drop path, mixup, cutmix, RandAugment and
    erasing: the recipe of MAE as SynCLR uses it for ViT-B/16 on ImageNet. The measured encoder is copied. Nothing is
    chosen by the test part; `finetune_ema` is the running mean of the weights.

    Settings that are null are those of `Recipe` from 10,000 training pictures on, of `small_recipe` below.

    Args:
        epochs, batch_size, base_lr, min_lr, weight_decay, layer_decay, drop_path: see `Recipe`.
        warmup_epochs: null: the recipe's share of the epochs.
        mixup, cutmix, label_smoothing, randaugment, erase, crop_scale, head_std, precision: see `Recipe`.
        ema: see `Recipe`; `none`: no running mean.
        augment: False shows pictures as in evaluation (mixup and cutmix stay).
    """

    name = "finetune"

    def __init__(
        self,
        epochs: PositiveInt | None = None,
        warmup_epochs: NonNegativeFloat | None = None,
        batch_size: Annotated[int, Field(ge=2)] | None = None,
        base_lr: PositiveFloat | None = None,
        min_lr: NonNegativeFloat | None = None,
        weight_decay: NonNegativeFloat | None = None,
        layer_decay: Fraction | None = None,
        drop_path: Share | None = None,
        mixup: NonNegativeFloat | None = None,
        cutmix: NonNegativeFloat | None = None,
        label_smoothing: Share | None = None,
        randaugment: str | None = None,
        erase: Share | None = None,
        crop_scale: Fraction | None = None,
        ema: Share | Literal["none"] | None = None,
        head_std: NonNegativeFloat | None = None,
        precision: Literal["float32", "bfloat16"] = Recipe.precision,
        augment: bool = True,
    ) -> None:
        self.augment = augment
        given: dict[str, Any] = {
            "epochs": epochs, "warmup_epochs": warmup_epochs, "batch_size": batch_size, "base_lr": base_lr,
            "min_lr": min_lr, "weight_decay": weight_decay, "layer_decay": layer_decay, "drop_path": drop_path,
            "mixup": mixup, "cutmix": cutmix, "label_smoothing": label_smoothing, "randaugment": randaugment,
            "erase": erase, "crop_scale": crop_scale, "ema": ema, "head_std": head_std, "precision": precision,
        }  # fmt: skip
        self.given = {name: value for name, value in given.items() if value is not None}
        if ema == "none":
            self.given["ema"] = None

    def recipe(self, pictures: int) -> Recipe:
        """The settings for a set of this many training pictures."""
        base = Recipe() if pictures >= LARGE else small_recipe(pictures)
        chosen = replace(base, **self.given)
        if "warmup_epochs" not in self.given:
            chosen = replace(chosen, warmup_epochs=base.warmup_epochs / base.epochs * chosen.epochs)
        return replace(chosen, warmup_epochs=min(chosen.warmup_epochs, chosen.epochs))

    def refusal(self, task: Task) -> str | None:
        for part in ("train", "test"):
            if not task.has(part):
                return f"{task.dataset.name} has no part '{part}'"
        labels = task.labels_of("train")
        if labels.ndim != 1:
            return f"pictures of {task.dataset.name} have several labels"
        if int((labels >= 0).sum()) < 2:
            return f"{task.dataset.name} has fewer than two labelled training pictures"
        if next(task.subject.encoder.parameters(), None) is None or not hasattr(task.subject.encoder, "dim"):
            return f"{task.subject.name} has no weights to fine-tune"
        if self.augment and self._size(task) is None:
            return f"the transform of {task.subject.name} has no size (evaluation.finetune.augment=false does without)"
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score."""
        parts = task.dataset.parts()
        train, test = (_Labelled(parts[name].pictures, parts[name].labels) for name in ("train", "test"))
        recipe = self.recipe(len(train))
        tuned = finetune(
            task.subject.encoder, train, train.labels, task.dataset.num_classes, self._transform(task, recipe), recipe,
            task.seed, task.device, task.workers,
        )  # fmt: skip
        values: dict[str, float] = {}
        predictions: dict[str, Tensor] = {}
        models = {"finetune": tuned.model, "finetune_ema": tuned.averaged}
        for name, model in models.items():
            if model is not None:
                logits = extract_features(
                    model, test, task.subject.transform, task.batch_size, task.device, task.workers
                )
                predictions[name] = found = logits.argmax(dim=1)
                values |= {name: top1(found, test.labels), f"{name}_per_class": mean_per_class(found, test.labels)}
        settings = asdict(recipe) | {
            "augment": self.augment,
            "drop_paths": tuned.drop_paths,
            "steps": tuned.steps,
            "pictures": len(train),
            "losses": tuned.losses,
        }
        headline = "finetune_per_class" if task.dataset.metric == "mean_per_class" else "finetune"
        yield Score("finetune", settings, values, predictions, (headline,))

    def _size(self, task: Task) -> int | None:
        return getattr(task.subject.transform, "size", None)

    def _transform(self, task: Task, recipe: Recipe) -> Transform:
        own: Any = task.subject.transform
        if not self.augment:
            return task.subject.transform
        interpolation = getattr(own, "interpolation", "bilinear")
        return training_transform(own.size, tuple(own.mean), tuple(own.std), interpolation, recipe)


class _Labelled:
    """The pictures of a part that have a label."""

    def __init__(self, pictures: Any, labels: Tensor) -> None:
        self.pictures, self.rows = pictures, (labels >= 0).nonzero()[:, 0]
        self.labels = labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Any:
        return self.pictures[int(self.rows[position])]

    def identity(self, position: int) -> str:
        """Name of a picture for messages."""
        row = int(self.rows[position])
        return str(self.pictures.identity(row)) if hasattr(self.pictures, "identity") else f"picture {row}"
