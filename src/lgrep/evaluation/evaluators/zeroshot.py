"""Zero-shot classification: every class is a few sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from lgrep.errors import DataError
from lgrep.evaluation.contract import Metric, Score, Task
from lgrep.evaluation.linear import measure
from lgrep.evaluation.prompts import Prompts, class_weights, embeddings_by_space, make_prompts

Share = Annotated[float, Field(ge=0, le=1)]
MIXES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_SUFFIX = {"top1": "", "mean_per_class": "_per_class", "map11": "_map11", "roc_auc": "_roc_auc"}


class Zeroshot:
    """Cosine between a picture and the mean of a class's prompts (Radford et al., arXiv 2103.00020, section 3.1.4).

    Prompt embeddings are scaled to unit length, averaged over templates and synonyms, and scaled again. A model with
    two joint spaces (CLIP-rocket: `z` weak heads, `h` strong heads) is scored in each and in mixes of their cosines,
    w z + (1 - w) h, without temperatures; no mix is chosen.

    Values: `zeroshot` (top-1), `zeroshot_top5` (more than five classes), `zeroshot_per_class`; two classes also
    `zeroshot_roc_auc` of the second's cosine less the first's; pictures with several classes `zeroshot_map11` alone.
    With two spaces the names go on with `_z`, `_h` and `_zh_0.1`, ....

    Args:
        part: of the data set.
        classes: `dataset`, `imagenet`, or a file with a name (or list of synonyms) per class.
        templates: `dataset`, `imagenet`, `imagenet_simple`, a list of texts with `{}`, or a file.
        mixes: values of w.
    """

    name = "zeroshot"

    def __init__(
        self,
        part: str = "test",
        classes: str = "dataset",
        templates: str | tuple[str, ...] = "dataset",
        mixes: tuple[Share, ...] = MIXES,
    ) -> None:
        self.part, self.classes, self.templates, self.mixes = part, classes, templates, mixes

    def refusal(self, task: Task) -> str | None:
        if task.subject.text is None or task.subject.to_text_space is None:
            return f"{task.subject.name} has no text tower"
        if not task.has(self.part):
            return f"{task.dataset.name} has no part '{self.part}'"
        if task.dataset.num_classes < 2 or (self.classes == "dataset" and not task.dataset.class_names):
            return f"{task.dataset.name} has no class names (evaluation.zeroshot.classes=FILE gives them)"
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score for all spaces."""
        prompts = make_prompts(task.dataset, self.classes, self.templates)
        features, labels = task.split(self.part)
        if labels.ndim == 1:
            features, labels = features[labels >= 0], labels[labels >= 0]
            if not len(labels) or int(labels.max()) >= len(prompts.members):
                raise DataError(
                    f"{task.dataset.name}: labels go up to {int(labels.max()) if len(labels) else 'none'}, but there are "
                    f"{len(prompts.members)} class names"
                )
        cosines = {
            space: (images @ class_weights(texts, prompts.members).T)
            for space, (images, texts) in embeddings_by_space(task, features, prompts.texts).items()
        }
        values: dict[str, float] = {}
        predictions: dict[str, Tensor] = {}
        for label, scores in self._mixed(cosines):
            values |= {name + label: value for name, value in classification_values("zeroshot", scores, labels).items()}
            if labels.ndim == 1:
                predictions[f"zeroshot{label}"] = scores.argmax(dim=1)
        if labels.ndim == 1:
            values["chance_zeroshot"] = 1 / len(prompts.members)
        first = next(iter(self._mixed(cosines)))[0]
        headline = f"zeroshot{_SUFFIX[task.dataset.metric]}{first}"
        headlines = (headline,) if headline in values else tuple(list(values)[:1])
        yield Score("zeroshot", self._settings(prompts, list(cosines)), values, predictions, headlines)

    def _mixed(self, cosines: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """(suffix, scores [N, C]) of every space and mix."""
        if len(cosines) == 1:
            yield "", next(iter(cosines.values()))
            return
        for space, scores in cosines.items():
            yield f"_{space}", scores
        (one, first), (two, second) = list(cosines.items())[:2]
        for weight in self.mixes:
            yield f"_{one}{two}_{weight:g}", weight * first + (1 - weight) * second

    def _settings(self, prompts: Prompts, spaces: list[str]) -> dict[str, Any]:
        repeated = [names for names, count in Counter(prompts.classes).items() if count > 1]
        return {
            "part": self.part,
            "templates": list(prompts.templates),
            "classes": len(prompts.classes),
            "prompts": len(prompts.texts),
            "origins": prompts.origins,
            "spaces": spaces,
            "mixes": list(self.mixes) if len(spaces) > 1 else [],
            # their scores tie, and the first one wins
            "repeated_class_names": [" / ".join(names) for names in repeated],
        }


def classification_values(name: str, scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of scores [N, C]: top-1, top-5 and mean per class, ROC AUC of two classes; 11-point mAP of several labels.

    Args:
        name: begins the names of the values.
        scores: larger is more likely.
        labels: Long[N], or bool [N, C].
    """
    if labels.ndim == 2:
        return {f"{name}_map11": measure("map11", scores, labels)}
    metrics: list[Metric] = ["top1", "mean_per_class"]
    if scores.shape[1] == 2 and len(torch.unique(labels)) == 2:
        metrics.append("roc_auc")
    values = {name + _SUFFIX[metric]: measure(metric, scores, labels) for metric in metrics}
    if scores.shape[1] > 5:
        values[f"{name}_top5"] = (scores.topk(5, dim=1).indices == labels[:, None]).any(1).double().mean().item()
    return values
