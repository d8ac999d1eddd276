"""Image-text and image-image retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.retrieval import pair_ranks, rank_metrics, retrieval_ranks
from lgrep.evaluation.text_models import on_device

Kind = Literal["image_text", "image_image"]
KINDS: tuple[Kind, ...] = ("image_text", "image_image")


class Retrieval:
    """Recall at k by cosine, both directions between pictures and captions, and between pictures of a class.

    A query's rank is that of its best right item; wrong items that are exactly as similar count before it. Recall at
    k is the share of queries of rank k or less, as Karpathy & Fei-Fei (arXiv 1412.2306) count it where a picture has
    several captions. Similarities are computed by blocks, so memory does not grow with the square of the set.

    - `text_retrieval_...`: query = picture, right = any of its captions.
    - `image_retrieval_...`: query = each caption, right = its picture.
    - `same_class_...`: query = each picture of the part, gallery = the other ones, right = the same class. Pictures
      that are alone in their class are in the gallery only.

    Args:
        part: of the data set.
        kinds: what is measured, as far as model and data set allow.
        recall_at: values of k.
        shared_captions: a text that is a caption of several pictures is right for each of them; False counts its
            equals as wrong, as published protocols do.
    """

    name = "retrieval"

    def __init__(
        self,
        part: str = "test",
        kinds: tuple[Kind, ...] = KINDS,
        recall_at: tuple[PositiveInt, ...] = (1, 5, 10),
        shared_captions: bool = True,
    ) -> None:
        self.part, self.kinds, self.recall_at, self.shared_captions = part, kinds, recall_at, shared_captions

    def refusal(self, task: Task) -> str | None:
        if not task.has(self.part):
            return f"{task.dataset.name} has no part '{self.part}'"
        reasons = {kind: self._missing(task, kind) for kind in self.kinds}
        return None if None in reasons.values() else "; ".join(f"{kind}: {why}" for kind, why in reasons.items())

    def __call__(self, task: Task) -> Iterator[Score]:
        """Scores `image_text_retrieval` and `image_image_retrieval`."""
        for kind in self.kinds:
            if self._missing(task, kind) is None:
                yield self._image_text(task) if kind == "image_text" else self._image_image(task)

    def _missing(self, task: Task, kind: Kind) -> str | None:
        part = task.dataset.parts()[self.part]
        if kind == "image_text":
            if task.subject.text is None or task.subject.to_text_space is None:
                return f"{task.subject.name} has no text tower"
            return None if part.captions and any(part.captions) else f"{task.dataset.name} has no captions"
        if part.labels.ndim != 1:
            return f"pictures of {task.dataset.name} have several labels"
        return None if _has_company(part.labels).any() else "no two pictures share a class"

    def _image_text(self, task: Task) -> Score:
        assert task.subject.text is not None and task.subject.to_text_space is not None
        captions = task.dataset.parts()[self.part].captions
        assert captions is not None
        images = task.subject.to_text_space(task.features_of(self.part)).to(task.device)
        owners = torch.tensor([row for row, own in enumerate(captions) for _ in own], device=task.device)
        written = [text for own in captions for text in own]
        distinct = list(dict.fromkeys(written))
        number = {text: place for place, text in enumerate(distinct)}
        which = torch.tensor([number[text] for text in written], device=task.device)
        texts = on_device(task.subject.text, task.device)(distinct).to(task.device)
        if not self.shared_captions:
            texts, which = texts[which], torch.arange(len(written), device=task.device)
        pairs = torch.unique(torch.stack([owners, which], dim=1), dim=0)
        captioned = torch.unique(owners)
        of_captioned = torch.stack([torch.searchsorted(captioned, pairs[:, 0].contiguous()), pairs[:, 1]], dim=1)
        ranks = {
            "text_retrieval": pair_ranks(images[captioned], texts, of_captioned),
            "image_retrieval": pair_ranks(texts, images, pairs.flip(1))[which],
        }
        settings = self._settings(task) | {
            "pictures": len(images),
            "pictures_with_captions": len(captioned),
            "captions": len(written),
            "distinct_captions": len(distinct),
            "shared_captions": self.shared_captions,
        }
        return Score("image_text_retrieval", settings, self._values(ranks), _on_cpu(ranks), self._headline(ranks))

    def _image_image(self, task: Task) -> Score:
        features, labels = task.split(self.part)
        features, labels = features[labels >= 0], labels[labels >= 0]
        company = _has_company(labels)
        # pictures alone in their class come last: in the gallery, but no queries
        order = torch.cat([company.nonzero()[:, 0], (~company).nonzero()[:, 0]])
        queries = int(company.sum())
        features, labels = features[order].to(task.device), labels[order].to(task.device)
        ranks = {
            "same_class": retrieval_ranks(features[:queries], features, labels[:queries], labels, same_set=True),
        }
        settings = self._settings(task) | {"queries": queries, "gallery": len(labels) - 1}
        return Score("image_image_retrieval", settings, self._values(ranks), _on_cpu(ranks), self._headline(ranks))

    def _settings(self, task: Task) -> dict[str, Any]:
        ties = "count against the query"
        return {"part": self.part, "similarity": "cosine", "recall_at": list(self.recall_at), "ties": ties}

    def _values(self, ranks: dict[str, Tensor]) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, own in ranks.items():
            metrics = rank_metrics(own, self.recall_at)
            metrics |= {"mean_rank": own.double().mean().item(), "median_rank": own.double().quantile(0.5).item()}
            values |= {f"{name}_{metric}": value for metric, value in metrics.items()}
        return values

    def _headline(self, ranks: dict[str, Tensor]) -> tuple[str, ...]:
        return tuple(f"{name}_R@{self.recall_at[0]}" for name in ranks) if self.recall_at else ()


def _has_company(labels: Tensor) -> Tensor:
    """Bool [N]: another picture has the same class (-1 is no class)."""
    if not len(labels):
        return torch.zeros(0, dtype=torch.bool)
    _, number, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    company: Tensor = (counts[number] > 1) & (labels >= 0)
    return company


def _on_cpu(ranks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: own.cpu() for name, own in ranks.items()}
