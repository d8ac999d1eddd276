"""StableRep's linear probe: SGD on augmented pictures, ten learning rates at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from lgrep.errors import DataError
from lgrep.evaluation.augmented import AugmentedPictures
from lgrep.evaluation.contract import Metric, Score, Task
from lgrep.evaluation.evaluators.linear import refuse_unlabelled
from lgrep.evaluation.features import extract_features
from lgrep.evaluation.linear import holdout_split, mean_per_class, top1
from lgrep.evaluation.sgd_heads import SGDHeads

BASE_LRS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SMALLEST_EPOCH = 10  # steps
LARGE = 10_000  # training pictures from which the published recipe (for 1.28 million) is followed to the letter
PUBLISHED_EPOCHS, SMALL_EPOCHS, SMALL_PASSES = 90, 30, 5
REFERENCE_BATCH = 256  # for which the base learning rates are meant


class LinearSGD:
    """The ImageNet probe of StableRep (Tian et al., arXiv 2306.00984), with an honest choice beside the published one.

    The frozen encoder sees every training picture anew in every epoch, randomly cropped and flipped; one
    classifier per base learning rate, without and with an affine-free batch norm, is trained on the features.
    `linear_sgd` is the test score of the classifier and epoch that are best on validation (the published
    part, else held out of train), `linear_sgd_best_on_test` the largest test score of all, which is what was
    published; `linear_sgd_bn` and so on with batch norm.

    Args:
        base_lrs: learning rates at a batch of 256; they grow in proportion to the batch.
        epochs: passes over train; null: 90, as published, from 10,000 training pictures on, else 30.
        batch_size: of the classifiers; what is left of an epoch is dropped. At most a tenth of the training pictures,
            for the recipe (1,024 of 1.28 million) would take a step or two per epoch on a small set.
        momentum: of SGD.
        batch_norm: `without`, `with` or `both`.
        augment: false: the features of the unchanged pictures in every epoch.
        passes: encode this many augmented passes and repeat them in turn; null: one per epoch, as published, from
            10,000 training pictures on, else 5. Repeated passes are kept in the feature cache.
        holdout: share of every class of train that validates where no validation part was published; 0: train on all
            and report the published number only.
        eval_every: epochs between evaluations; the last epoch always counts.
        init_std: of the first weights.
        split_seed: of the held-out pictures; null: the run's seed, which draws everything else.
    """

    name = "linear_sgd"

    def __init__(
        self,
        base_lrs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = BASE_LRS,
        epochs: PositiveInt | None = None,
        batch_size: PositiveInt = 1024,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        batch_norm: Literal["without", "with", "both"] = "both",
        augment: bool = True,
        passes: PositiveInt | None = None,
        holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        eval_every: PositiveInt = 10,
        init_std: NonNegativeFloat = 0.01,
        split_seed: NonNegativeInt | None = None,
    ) -> None:
        self.base_lrs, self.epochs, self.batch_size, self.momentum = base_lrs, epochs, batch_size, momentum
        self.groups = {"without": (False,), "with": (True,), "both": (False, True)}[batch_norm]
        self.augment, self.passes, self.holdout, self.eval_every = augment, passes, holdout, eval_every
        self.init_std, self.split_seed = init_std, split_seed

    def refusal(self, task: Task) -> str | None:
        """Sets without classes, training or test part; several classes per picture; an unknown picture size."""
        missing = refuse_unlabelled(task)
        if missing is None and task.labels_of("train").ndim == 2:
            return f"pictures of {task.dataset.name} have several labels"
        if missing is None and self.augment and not hasattr(task.subject.transform, "size"):
            return "the picture size of the model is unknown; type evaluation.linear_sgd.augment=false"
        return missing

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score for both kinds of classifiers."""
        kept, validation = self._split(task)
        epochs, passes = self._length(len(kept))
        test = _known(task, "test")
        labels = task.labels_of("train")[kept].to(task.device)
        batch = max(1, min(self.batch_size, len(kept) // SMALLEST_EPOCH))
        steps = len(kept) // batch
        shuffle = torch.Generator().manual_seed(task.seed)
        features, heads, kinds = _EpochFeatures(task, kept, self.augment, epochs, passes), None, self.groups
        best = {name: _Best() for name in self._names()} | {f"{name}_best_on_test": _Best() for name in self._names()}
        for epoch in range(epochs):
            seen = features.of(epoch)
            if heads is None:
                rates = [rate * batch / REFERENCE_BATCH for rate in self.base_lrs]
                about = (seen.shape[1], task.dataset.num_classes, epochs * steps, self.momentum, self.init_std)
                heads = SGDHeads(rates, kinds, *about, seed=task.seed, device=task.device)
            order = torch.randperm(len(seen), generator=shuffle).to(task.device)
            for rows in torch.split(order[: steps * batch], batch):
                heads.train_step(seen[rows], labels[rows])
            if (epoch + 1) % self.eval_every == 0 or epoch + 1 == epochs:
                self._evaluate(task, heads, epoch + 1, validation, test, best)
        yield self._score(task, best, len(kept), batch, validation, len(test[1]))

    def _length(self, pictures: int) -> tuple[int, int]:
        """(epochs, augmented passes) for this many training pictures."""
        small = pictures < LARGE
        epochs = self.epochs or (SMALL_EPOCHS if small else PUBLISHED_EPOCHS)
        return epochs, min(epochs, self.passes or (SMALL_PASSES if small else epochs))

    def _split(self, task: Task) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Row numbers of train to fit on, and (features, labels) to choose with."""
        labels = task.labels_of("train")
        rows = (labels >= 0).nonzero()[:, 0]
        if task.has("validation"):
            return rows, _known(task, "validation")
        if self.holdout == 0:
            return rows, None
        seed = task.seed if self.split_seed is None else self.split_seed
        kept, out = holdout_split(labels[rows], self.holdout, seed)
        if not len(out):
            raise DataError(
                f"{self.holdout:g} of {len(rows)} training pictures is none; type e.g. evaluation.linear_sgd.holdout=0.5"
            )
        return rows[kept], (task.features_of("train")[rows[out]], labels[rows[out]])

    def _evaluate(
        self,
        task: Task,
        heads: SGDHeads,
        epoch: int,
        validation: tuple[Tensor, Tensor] | None,
        test: tuple[Tensor, Tensor],
        best: dict[str, _Best],
    ) -> None:
        tested = heads.predict(test[0].to(task.device)).cpu()
        chosen = None if validation is None else heads.predict(validation[0].to(task.device)).cpu()
        for group, name in enumerate(self._names()):
            for position, base_lr in enumerate(self.base_lrs):
                predicted = tested[group, position]
                own = _accuracy(task.dataset.metric, predicted, test[1])
                best[f"{name}_best_on_test"].offer(own, base_lr, epoch, predicted)
                if chosen is not None and validation is not None:
                    on_validation = _accuracy(task.dataset.metric, chosen[group, position], validation[1])
                    best[name].offer(on_validation, base_lr, epoch, predicted)

    def _names(self) -> list[str]:
        return ["linear_sgd_bn" if norm else "linear_sgd" for norm in self.groups]

    def _score(
        self,
        task: Task,
        best: dict[str, _Best],
        count: int,
        batch: int,
        validation: tuple[Tensor, Tensor] | None,
        tested: int,
    ) -> Score:
        labels = _known(task, "test")[1]
        values: dict[str, float] = {}
        chosen: dict[str, Any] = {}
        found = {name: kept for name, kept in best.items() if kept.predictions is not None}
        for name, kept in found.items():
            assert kept.predictions is not None
            values |= {
                name: top1(kept.predictions, labels),
                f"{name}_per_class": mean_per_class(kept.predictions, labels),
            }
            chosen[name] = {"base_lr": kept.base_lr, "epoch": kept.epoch, "chosen_at": kept.score}
        rule = (
            "no validation" if validation is None else "best on validation; _best_on_test: best on test, as published"
        )
        settings = {
            "base_lrs": list(self.base_lrs),
            "epochs": self._length(count)[0],
            "batch_size": batch,
            "momentum": self.momentum,
            "schedule": "cosine to 0 per step",
            "augmentation": "random resized crop, flip" if self.augment else "none",
            "augmented_passes": self._length(count)[1] if self.augment else 0,
            "evaluated_every": self.eval_every,
            "chosen_by": f"{task.dataset.metric}, {rule}",
            "validation_from": "the data set's"
            if task.has("validation")
            else f"{self.holdout:g} of every class of train",
            "chosen": chosen,
            "classes": task.dataset.num_classes,
            "train": count,
            "validation_pictures": 0 if validation is None else len(validation[1]),
            "test": tested,
        }
        headline = tuple(name for name in found if validation is None or not name.endswith("_best_on_test"))
        predictions = {name: kept.predictions for name, kept in found.items() if kept.predictions is not None}
        return Score(self.name, settings, values, predictions, headline)


@dataclass
class _Best:
    """The best classifier so far; the first at a tie."""

    score: float = -1.0
    base_lr: float = 0.0
    epoch: int = 0
    predictions: Tensor | None = field(default=None, repr=False)

    def offer(self, score: float, base_lr: float, epoch: int, predictions: Tensor) -> None:
        if score > self.score:
            self.score, self.base_lr, self.epoch, self.predictions = score, base_lr, epoch, predictions.clone()


class _EpochFeatures:
    """Features of the training pictures, augmented anew for every epoch (or repeating some passes).

    Args:
        task: the model and the data.
        rows: Long[N] of train.
        augment: False: of the unchanged pictures.
        epochs: of the training.
        passes: that are encoded; fewer than epochs are kept.
    """

    def __init__(self, task: Task, rows: Tensor, augment: bool, epochs: int, passes: int) -> None:
        self.task, self.rows, self.augment, self.epochs, self.passes = task, rows, augment, epochs, passes
        self._kept: dict[int, Tensor] = {}

    def of(self, epoch: int) -> Tensor:
        """[N, D] on the task's device, in the order of the rows."""
        number = epoch % self.passes if self.augment else 0
        if number in self._kept:
            return self._kept[number]
        found = (self._augmented(number) if self.augment else self.task.features_of("train")[self.rows]).to(
            self.task.device
        )
        if not self.augment or self.passes < self.epochs:
            self._kept[number] = found
        return found

    def _augmented(self, number: int) -> Tensor:
        task = self.task
        size: int = getattr(task.subject.transform, "size")  # noqa: B009
        pictures = AugmentedPictures(task.dataset.parts()["train"].pictures, self.rows, size, task.seed, number)
        if task.features_from is not None and self.passes < self.epochs:
            return task.features_from(pictures, f"{task.dataset.data_hash} {pictures.description}")
        where = (task.batch_size, task.device, task.workers)
        text = f"{task.subject.name} on {task.dataset.name}, epoch {number + 1} of {self.epochs}"
        return extract_features(task.subject.encoder, pictures, task.subject.transform, *where, progress=text)


def _known(task: Task, part: str) -> tuple[Tensor, Tensor]:
    features, labels = task.split(part)
    return features[labels >= 0], labels[labels >= 0]


def _accuracy(metric: Metric, predictions: Tensor, labels: Tensor) -> float:
    return (mean_per_class if metric == "mean_per_class" else top1)(predictions, labels)
