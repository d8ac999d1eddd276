"""End-to-end fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.features import Transform, extract_features
from lgrep.evaluation.finetuning import Recipe, finetune, training_transform
from lgrep.evaluation.linear import mean_per_class, top1

Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Finetune:
    """All weights trained with the labels of the training part, tested once with the last weights.

    AdamW with a cosine, learning rates that fall from layer to layer, drop path, mixup, cutmix, RandAugment and
    erasing: the recipe of MAE as SynCLR uses it for ViT-B/16 on ImageNet. The measured encoder is copied. Nothing is
    chosen by the test part; `finetune_ema` is the running mean of the weights.

    Args:
        epochs, warmup_epochs, batch_size, base_lr, min_lr, weight_decay, layer_decay, drop_path: see `Recipe`.
        mixup, cutmix, label_smoothing, randaugment, erase, crop_scale, ema, head_std, precision: see `Recipe`.
        augment: False shows pictures as in evaluation (mixup and cutmix stay).
    """

    name = "finetune"

    def __init__(
        self,
        epochs: PositiveInt = Recipe.epochs,
        warmup_epochs: NonNegativeFloat = Recipe.warmup_epochs,
        batch_size: Annotated[int, Field(ge=2)] = Recipe.batch_size,
        base_lr: PositiveFloat = Recipe.base_lr,
        min_lr: NonNegativeFloat = Recipe.min_lr,
        weight_decay: NonNegativeFloat = Recipe.weight_decay,
        layer_decay: Fraction = Recipe.layer_decay,
        drop_path: Share = Recipe.drop_path,
        mixup: NonNegativeFloat = Recipe.mixup,
        cutmix: NonNegativeFloat = Recipe.cutmix,
        label_smoothing: Share = Recipe.label_smoothing,
        randaugment: str = Recipe.randaugment,
        erase: Share = Recipe.erase,
        crop_scale: Fraction = Recipe.crop_scale,
        ema: Share | None = Recipe.ema,
        head_std: NonNegativeFloat = Recipe.head_std,
        precision: Literal["float32", "bfloat16"] = Recipe.precision,
        augment: bool = True,
    ) -> None:
        self.augment = augment
        self.recipe = Recipe(
            epochs, min(warmup_epochs, epochs), batch_size, base_lr, min_lr, weight_decay, layer_decay, drop_path,
            mixup, cutmix, label_smoothing, randaugment, erase, crop_scale, ema, head_std, precision,
        )  # fmt: skip

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
        tuned = finetune(
            task.subject.encoder, train, train.labels, task.dataset.num_classes, self._transform(task), self.recipe,
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
        settings = asdict(self.recipe) | {
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

    def _transform(self, task: Task) -> Transform:
        own: Any = task.subject.transform
        if not self.augment:
            return task.subject.transform
        interpolation = getattr(own, "interpolation", "bilinear")
        return training_transform(own.size, tuple(own.mean), tuple(own.std), interpolation, self.recipe)


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
