"""The protocol of the embedded emoji set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgrep.data.emoji import class_names, held_out_designer, open_emoji, rows
from lgrep.data.table import Table
from lgrep.evaluation.features import TablePictures
from lgrep.evaluation.knn import knn_predict
from lgrep.evaluation.linear import mean_per_class, top1
from lgrep.evaluation.protocols.base import Score, knn_score, linear_score, register
from lgrep.evaluation.retrieval import chance_metrics, rank_metrics, retrieval_ranks

TARGET_DESIGNER = "noto"


@register("emoji")
class EmojiProtocol:
    """kNN, linear probe, unseen-designer retrieval and the 2 x 2 transfer table.

    Features are taken as the encoder gives them: kNN and retrieval compare by cosine without centring, the
    linear probe standardises by its training statistics. Encoders that bring no normalisation of
    their own get the channel mean and std of the training pictures at 24 px.

    - `knn`: k = 20, cosine, plain votes, 29 classes. Gallery: labelled drawings of train captions by seen
      designers. Queries: the same of test captions.
    - `linear`: multinomial logistic regression on seen designers; C chosen on the validation fold, refit
      on train + validation, tested once.
    - `retrieval`: query = the held-out designer's drawing of a test caption; gallery = the drawings of the
      test captions by `noto`; right is the drawing of the same caption (`R@1`, `R@5`, `MRR`) or of any
      caption of its cluster of near-duplicates (`cluster_...`). All test captions, labelled or not.
    - `transfer`: 2 x 2 table of kNN accuracy, {seen, unseen} designer of the query x {train, test}
      captions of the query; the gallery of every cell is that of `knn`. A query never shares family and
      caption with an item that votes on it (so on train captions a drawing does not find itself or its
      twin in the other Fluent style), while other designers' drawings of a train caption do vote.

    Args:
        table: the emoji set or a part of it; the embedded one when None.
        test_fold, val_fold: folds of whole clusters; the other three train.
        k: neighbours of the kNN vote.
    """

    name = "emoji"
    # of the labelled and unlabelled drawings of train captions (folds 2-4) by seen designers, at 24 px
    mean = (0.8342, 0.7940, 0.7484)
    std = (0.2528, 0.2423, 0.3018)

    def __init__(self, table: Table | None = None, test_fold: int = 0, val_fold: int = 1, k: int = 20) -> None:
        self.table = open_emoji() if table is None else table
        self.data_hash = self.table.content_hash
        self.k = k
        self.num_classes = len(class_names())
        self.folds = {"test_fold": test_fold, "val_fold": val_fold}
        self._parts = {
            "train": self._rows("train", "seen", True),
            "validation": self._rows("val", "seen", True),
            "test": self._rows("test", "seen", True),
            "unseen_train": self._rows("train", "unseen", True),
            "unseen_test": self._rows("test", "unseen", True),
            "query": self._rows("test", "unseen", False),
            "target": self._rows("test", (TARGET_DESIGNER,), False),
        }
        self.rows = np.unique(np.concatenate(list(self._parts.values())))
        self.labels = torch.from_numpy(self.table.column("label").astype(np.int64))

    def pictures(self) -> TablePictures:
        """Every drawing that some evaluator needs, once."""
        return TablePictures(self.table, self.rows)

    def scores(self, features: Tensor) -> Iterator[Score]:
        """Run the evaluators on features [N, D] of `pictures()`."""
        split = {part: self._select(features, part) for part in ("train", "validation", "test")}
        knn = knn_score(split["train"], split["test"], self.k, self.num_classes)
        knn.settings.update(self._protocol())
        yield knn
        linear = linear_score(split["train"], split["validation"], split["test"], self.num_classes)
        linear.settings.update(self._protocol())
        yield replace(linear, headline=("linear", "linear_per_class"))
        yield self._retrieval(features)
        yield self._transfer(features, knn)

    def _retrieval(self, features: Tensor) -> Score:
        query, target = self._features(features, "query"), self._features(features, "target")
        group = self.table.group
        _, cluster = np.unique(self.table.caption_column("cluster").astype(str), return_inverse=True)
        values: dict[str, float] = {}
        ranks: dict[str, Tensor] = {}
        for prefix, identity in (("", group), ("cluster_", cluster[group])):
            query_ids = torch.from_numpy(identity[self._parts["query"]].astype(np.int64))
            target_ids = torch.from_numpy(identity[self._parts["target"]].astype(np.int64))
            ranks[prefix + "rank"] = retrieval_ranks(query, target, query_ids, target_ids)
            values |= {prefix + name: value for name, value in rank_metrics(ranks[prefix + "rank"]).items()}
            values |= {f"chance_{prefix}{name}": value for name, value in chance_metrics(query_ids, target_ids).items()}
        settings = self._protocol() | {
            "similarity": "cosine",
            "query_designer": held_out_designer(),
            "gallery_designer": TARGET_DESIGNER,
            "queries": len(query),
            "gallery": len(target),
            "ties": "count against the query",
        }
        return Score("retrieval", settings, values, ranks, ("R@1",))

    def _transfer(self, features: Tensor, knn: Score) -> Score:
        gallery, gallery_labels = self._select(features, "train")
        predicted = {"seen_test": knn.predictions["knn"]}
        for cell, part in (("seen_train", "train"), ("unseen_train", "unseen_train"), ("unseen_test", "unseen_test")):
            exclude = (self._drawing(part), self._drawing("train"))
            predicted[cell] = knn_predict(
                gallery,
                gallery_labels,
                self._features(features, part),
                k=self.k,
                num_classes=self.num_classes,
                exclude=exclude,
            )
        parts = {
            "seen_train": "train",
            "seen_test": "test",
            "unseen_train": "unseen_train",
            "unseen_test": "unseen_test",
        }
        values: dict[str, float] = {}
        for cell, part in parts.items():
            labels = self.labels[torch.from_numpy(self._parts[part])]
            values[cell] = top1(predicted[cell], labels)
            values[f"{cell}_per_class"] = mean_per_class(predicted[cell], labels)
        settings = self._protocol() | {
            "k": self.k,
            "gallery": "train captions, seen designers",
            "cells": "designer of the query _ captions of the query",
            "queries": {cell: len(self._parts[part]) for cell, part in parts.items()},
        }
        return Score("transfer", settings, values, predicted)

    def _protocol(self) -> dict[str, Any]:
        return {**self.folds, "held_out_designer": held_out_designer()}

    def _rows(self, captions: str, designers: str | tuple[str, ...], labelled: bool) -> np.ndarray[Any, Any]:
        return rows(self.table, captions=captions, designers=designers, labelled=labelled, **self.folds)

    def _features(self, features: Tensor, part: str) -> Tensor:
        return features[torch.from_numpy(np.searchsorted(self.rows, self._parts[part]))]

    def _select(self, features: Tensor, part: str) -> tuple[Tensor, Tensor]:
        return self._features(features, part), self.labels[torch.from_numpy(self._parts[part])]

    def _drawing(self, part: str) -> Tensor:
        """A number per picture that pictures of one caption and one design family share."""
        family = self.table.column("family").astype(np.int64)
        key = self.table.group.astype(np.int64) * (int(family.max()) + 1) + family
        return torch.from_numpy(key[self._parts[part]])
