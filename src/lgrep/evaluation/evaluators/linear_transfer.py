"""The linear transfer protocol of SynCLR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.evaluators.linear import LinearProbe
from lgrep.evaluation.features import Transform, extract_features

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHT_DECAYS = tuple(10.0 ** (-6 + 11 * step / 44) for step in range(45))


class LinearTransfer:
    """Linear transfer as in SynCLR (Tian et al., arXiv 2312.17742) and StableRep (arXiv 2306.00984).

    Standardised features, L2-penalised logistic regression to its minimum, C = 1 / weight decay chosen among 45
    values by the data set's metric on validation (the published part, else a random fifth of train), refit on
    train + validation. VOC 2007: one binary problem per class, mean of 11-point average precision.

    Args:
        weight_decays: log-spaced from 1e-6 to 1e5 as published.
        preprocessing: `published`: short side bicubic, centre crop, CLIP's mean and std; `model`: the model's own.
        holdout: share of train, without regard to classes, that validates where no validation part was published.
        split_seed: of that draw.
        backend: `torch`, one warm-started path, or `sklearn`, value by value.
        max_iter: of `sklearn`.
    """

    name = "linear_transfer"

    def __init__(
        self,
        weight_decays: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = WEIGHT_DECAYS,
        preprocessing: Literal["published", "model"] = "published",
        holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        split_seed: NonNegativeInt = 0,
        backend: Literal["torch", "sklearn"] = "torch",
        max_iter: PositiveInt = 1000,
    ) -> None:
        self.preprocessing = preprocessing
        self.probe = LinearProbe(
            costs=tuple(1.0 / decay for decay in weight_decays),
            standardise=True,
            select_by="metric",
            holdout=holdout,
            stratified=False,
            split_seed=split_seed,
            backend=backend,
            max_iter=max_iter,
            name=self.name,
        )

    def refusal(self, task: Task) -> str | None:
        """As the linear probe; the published preprocessing needs a model that tells its picture size."""
        refused = self.probe.refusal(task)
        if refused is None and self.preprocessing == "published" and _published(task) is None:
            return "the picture size of the model is unknown; type evaluation.linear_transfer.preprocessing=model"
        return refused

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score, as the linear probe's."""
        about: dict[str, Any] = {"preprocessing": "the model's"}
        transform = _published(task) if self.preprocessing == "published" else None
        if transform is not None:
            task = replace(task, features_of=_features(task, transform))
            about = {"preprocessing": vars(transform)}
        for score in self.probe(task):
            yield replace(score, settings=score.settings | about | {"weight_decay": 1 / score.settings["c"]})


def _published(task: Task) -> EvaluationTransform | None:
    own = task.subject.transform
    return EvaluationTransform(own.size, CLIP_MEAN, CLIP_STD, "bicubic") if hasattr(own, "size") else None


def _features(task: Task, transform: Transform) -> Callable[[str], Tensor]:
    if task.features_with is not None:
        return task.features_with(transform)

    def extract(part: str) -> Tensor:
        pictures, subject = task.dataset.parts()[part].pictures, task.subject
        return extract_features(subject.encoder, pictures, transform, task.batch_size, task.device, task.workers)

    return extract
