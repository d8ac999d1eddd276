"""What only the emoji set can measure: finding an unseen designer's drawings, and transfer between designers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import PositiveInt
from torch import Tensor

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.datasets.emoji import TARGET_DESIGNER, EmojiSet
from lgrep.evaluation.knn import knn_predict
from lgrep.evaluation.linear import mean_per_class, top1
from lgrep.evaluation.retrieval import chance_metrics, rank_metrics, retrieval_ranks

# cell of the 2 x 2 table -> part of the queries
_CELLS = {"seen_train": "train", "seen_test": "test", "unseen_train": "unseen_train", "unseen_test": "unseen_test"}


class EmojiEvaluator:
    """Unseen-designer retrieval and the 2 x 2 transfer table of the emoji set, by cosine, without centring.

    - `retrieval`: query = the held-out designer's drawing of a test caption; gallery = the drawings of the
      test captions by `noto`; right is the drawing of the same caption (`R@1`, `R@5`, `MRR`) or of any
      caption of its cluster of near-duplicates (`cluster_...`). All test captions, labelled or not.
    - `transfer`: kNN accuracy, {seen, unseen} designer of the query x {train, test} captions of the query;
      gallery: labelled drawings of train captions by seen designers. A query never shares family and
      caption with an item that votes on it (so on train captions a drawing does not find itself or its
      twin in the other Fluent style), while other designers' drawings of a train caption do vote.

    Args:
        k: neighbours of the kNN vote.
    """

    name = "emoji"

    def __init__(self, k: PositiveInt = 20) -> None:
        self.k = k

    def refusal(self, task: Task) -> str | None:
        """Any other data set."""
        return None if isinstance(task.dataset, EmojiSet) else "it measures the emoji set only"

    def __call__(self, task: Task) -> Iterator[Score]:
        """Scores `retrieval` and `transfer`."""
        dataset = task.dataset
        assert isinstance(dataset, EmojiSet)
        yield self._retrieval(task, dataset)
        yield self._transfer(task, dataset)

    def _retrieval(self, task: Task, dataset: EmojiSet) -> Score:
        query, target = task.features_of("query"), task.features_of("target")
        values: dict[str, float] = {}
        ranks: dict[str, Tensor] = {}
        for prefix, identity in (("", dataset.caption_groups), ("cluster_", dataset.caption_clusters)):
            query_ids, target_ids = identity("query"), identity("target")
            ranks[prefix + "rank"] = retrieval_ranks(query, target, query_ids, target_ids)
            values |= {prefix + name: value for name, value in rank_metrics(ranks[prefix + "rank"]).items()}
            values |= {f"chance_{prefix}{name}": value for name, value in chance_metrics(query_ids, target_ids).items()}
        settings = dataset.settings | {
            "similarity": "cosine",
            "query_designer": dataset.settings["held_out_designer"],
            "gallery_designer": TARGET_DESIGNER,
            "queries": len(query),
            "gallery": len(target),
            "ties": "count against the query",
        }
        return Score("retrieval", settings, values, ranks, ("R@1",))

    def _transfer(self, task: Task, dataset: EmojiSet) -> Score:
        gallery, gallery_labels = task.split("train")
        predicted: dict[str, Tensor] = {}
        values: dict[str, float] = {}
        for cell, part in _CELLS.items():
            # no drawing of a test caption by a seen designer can be in the gallery
            exclude = None if cell == "seen_test" else (dataset.drawings(part), dataset.drawings("train"))
            queries, labels = task.split(part)
            found = knn_predict(gallery, gallery_labels, queries, self.k, dataset.num_classes, exclude=exclude)
            predicted[cell] = found
            values[cell] = top1(found, labels)
            values[f"{cell}_per_class"] = mean_per_class(found, labels)
        settings: dict[str, Any] = dataset.settings | {
            "k": self.k,
            "gallery": "train captions, seen designers",
            "cells": "designer of the query _ captions of the query",
            "queries": {cell: len(dataset.rows[part]) for cell, part in _CELLS.items()},
        }
        return Score("transfer", settings, values, predicted)
