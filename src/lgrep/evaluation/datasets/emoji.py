"""The embedded emoji set under its protocol."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lgrep.data.emoji import FOLDS, class_names, held_out_designer, open_emoji, rows
from lgrep.data.table import Table
from lgrep.evaluation.contract import Metric, Part
from lgrep.evaluation.features import TablePictures

TARGET_DESIGNER = "noto"
Fold = Annotated[int, Field(ge=0, lt=FOLDS)]


class EmojiSet:
    """29 classes of labelled drawings by designers that models are trained on, in folds of whole clusters of captions.

    `train`, `validation` and `test` hold labelled drawings of their captions by seen designers. The evaluator `emoji`
    has parts of its own: `unseen_train` and `unseen_test` (the held-out designer's drawings of train and test
    captions), `query` and `target` (that designer's and one other's drawings of all test captions, labelled or not).
    Encoders without a normalisation of their own get channel statistics of the training pictures at 24 px.

    Args:
        table: the emoji set or a part of it; the embedded one when None.
        test_fold, val_fold: folds of the captions; the other three train.

    Raises:
        ConfigError: wrong folds.
    """

    name = "emoji"
    # of the labelled and unlabelled drawings of train captions (folds 2-4) by seen designers, at 24 px
    mean = (0.8342, 0.7940, 0.7484)
    std = (0.2528, 0.2423, 0.3018)
    templates = ("an emoji of {}.",)
    metric: Metric = "mean_per_class"
    notes = ("folds of whole clusters of captions; drawings by designers that the recipes train on",)

    def __init__(self, table: Table | None = None, test_fold: Fold = 0, val_fold: Fold = 1) -> None:
        self.table = open_emoji() if table is None else table
        self.data_hash = self.table.content_hash
        self.class_names = tuple(name.replace("-", " ") for name in class_names())
        self.num_classes = len(self.class_names)
        self._folds = {"test_fold": test_fold, "val_fold": val_fold}
        self.settings: dict[str, Any] = {**self._folds, "held_out_designer": held_out_designer()}
        self.rows = {
            "train": self._rows("train", "seen", True),
            "validation": self._rows("val", "seen", True),
            "test": self._rows("test", "seen", True),
            "unseen_train": self._rows("train", "unseen", True),
            "unseen_test": self._rows("test", "unseen", True),
            "query": self._rows("test", "unseen", False),
            "target": self._rows("test", (TARGET_DESIGNER,), False),
        }
        self._parts = self._made_parts()

    def parts(self) -> dict[str, Part]:
        """Seven parts of one pool that holds every drawing once."""
        return self._parts

    def caption_groups(self, part: str) -> Tensor:
        """Long[N]: a number per picture of the part that drawings of one caption share."""
        return torch.from_numpy(self.table.group[self.rows[part]].astype(np.int64))

    def caption_clusters(self, part: str) -> Tensor:
        """Long[N]: a number that drawings of near-duplicate captions share."""
        _, cluster = np.unique(self.table.caption_column("cluster").astype(str), return_inverse=True)
        return torch.from_numpy(cluster[self.table.group[self.rows[part]]].astype(np.int64))

    def drawings(self, part: str) -> Tensor:
        """Long[N]: a number that pictures of one caption and one design family share."""
        family = self.table.column("family").astype(np.int64)
        key = self.table.group.astype(np.int64) * (int(family.max()) + 1) + family
        return torch.from_numpy(key[self.rows[part]])

    def _made_parts(self) -> dict[str, Part]:
        used = np.unique(np.concatenate(list(self.rows.values())))
        pool = TablePictures(self.table, used)
        labels = self.table.column("label").astype(np.int64)
        return {
            name: Part(
                TablePictures(self.table, rows),
                torch.from_numpy(labels[rows]),
                [[self.table.caption(int(row))] for row in rows],
                pool,
                torch.from_numpy(np.searchsorted(used, rows)),
            )
            for name, rows in self.rows.items()
        }

    def _rows(self, captions: str, designers: str | tuple[str, ...], labelled: bool) -> np.ndarray[Any, Any]:
        return rows(self.table, captions=captions, designers=designers, labelled=labelled, **self._folds)
