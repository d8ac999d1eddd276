"""What an evaluation data set offers, and the registry of them.

A further data set is one more module in this package, or any imported module, with a class under
`@register("name")`; nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from lgrep.errors import ConfigError, did_you_mean
from lgrep.evaluation import protocols
from lgrep.evaluation.features import Pictures
from lgrep.evaluation.knn import knn_predict
from lgrep.evaluation.linear import C_GRID, linear_probe, mean_per_class, top1


@dataclass(frozen=True)
class Score:
    """What one evaluator measured; iterating gives (name, value).

    Attributes:
        evaluator: its name, for example "knn".
        settings: everything that defines the number, plain JSON types.
        values: name -> value; accuracies in [0, 1].
        predictions: name -> Long[M], one small non-negative integer per query (predicted class, or rank).
        headline: the names that the printed table shows.
    """

    evaluator: str
    settings: dict[str, Any]
    values: dict[str, float]
    predictions: dict[str, Tensor] = field(default_factory=dict)
    headline: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self.values.items())


class EvaluationSet(Protocol):
    """Pictures, and evaluators of their features.

    Attributes:
        name: registry name.
        data_hash: identity of pictures and labels, kept in records.
        mean, std: channel statistics in [0, 1] of its training pictures, for encoders without their own.
    """

    name: str
    data_hash: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pictures(self) -> Pictures:
        """The pictures whose features `scores` needs."""
        ...

    def scores(self, features: Tensor) -> Iterator[Score]:
        """Run the evaluators on float32 features [N, D] of `pictures()`, in their order."""
        ...


_SETS: dict[str, Callable[..., EvaluationSet]] = {}


def register(name: str) -> Callable[[type], type]:
    """Class decorator: make an evaluation data set known as `name`."""

    def add(cls: type) -> type:
        _SETS[name] = cls
        return cls

    return add


def names() -> list[str]:
    """The known evaluation data sets."""
    for module in pkgutil.iter_modules(protocols.__path__):
        importlib.import_module(f"{protocols.__name__}.{module.name}")
    return sorted(_SETS)


def build_set(name: str, **options: Any) -> EvaluationSet:
    """The evaluation data set of that name.

    Raises:
        ConfigError: unknown, with the nearest name.
    """
    known = names()
    if name not in known:
        raise ConfigError(
            f"no evaluation data set '{name}': {did_you_mean(name, known)} Type evaluation.datasets=[{','.join(known)}]"
        )
    return _SETS[name](**options)


def knn_score(gallery: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor], k: int, num_classes: int) -> Score:
    """Plain-vote cosine kNN. `gallery` and `queries` are (features, labels)."""
    predicted = knn_predict(*gallery, queries[0], k=k, num_classes=num_classes)
    values = {"knn": top1(predicted, queries[1]), "knn_per_class": mean_per_class(predicted, queries[1])}
    settings = {
        "k": k,
        "similarity": "cosine",
        "vote": "plain",
        "classes": num_classes,
        "gallery": len(gallery[1]),
        "queries": len(queries[1]),
    }
    return Score("knn", settings, values, {"knn": predicted}, ("knn",))


def linear_score(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int
) -> Score:
    """L-BFGS logistic regression on standardised features, C chosen on validation, refit, tested once."""
    result = linear_probe(train, validation, test[0], num_classes)
    predicted = result.predictions
    values = {"linear": top1(predicted, test[1]), "linear_per_class": mean_per_class(predicted, test[1])}
    settings = {
        "standardised": True,
        "c_grid": list(C_GRID),
        "c": result.c,
        "chosen_by": "mean per-class accuracy on validation",
        "validation": {f"{c:g}": accuracy for c, accuracy in result.validation.items()},
        "classes": num_classes,
        "train": len(train[1]),
        "validation_pictures": len(validation[1]),
        "test": len(test[1]),
        "objective": result.classifier.objective,
        "largest_gradient": result.classifier.gradient,
    }
    return Score("linear", settings, values, {"linear": predicted}, ("linear",))
