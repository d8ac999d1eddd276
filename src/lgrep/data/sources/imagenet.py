"""Labelled pictures in the layout of ImageNet: one folder per class, below one folder per split."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt

from lgrep.data.notices import notice, shown
from lgrep.data.probe import ProbeTables
from lgrep.data.sources.folder import FolderSource
from lgrep.data.sources.listing import check_folder
from lgrep.data.table import Table
from lgrep.errors import DataError


class ImageNetSource:
    """Trains on `root/train/<class>/...`; the online probes classify pictures of `root/val/<class>/...`.

    Classes are numbered in the order of their folders' names, as torchvision does. The probes look at the same few
    classes and pictures in every run; their class names are those of all classes.

    Args:
        root: folder of the splits.
        train: folder to train on, below `root`.
        val: folder of the probes' queries, below `root`; null: no probes.
        probe_classes: classes that the probes look at; null: all.
        gallery_per_class: pictures of each that are looked up, from `train` (they are trained on too).
        queries_per_class: pictures of each that are classified, from `val`.
    """

    def __init__(
        self,
        root: str,
        train: str = "train",
        val: str | None = "val",
        probe_classes: PositiveInt | None = 100,
        gallery_per_class: PositiveInt = 10,
        queries_per_class: PositiveInt = 5,
    ) -> None:
        self.root = root
        self.train = train
        self.val = val
        self.probe_classes = probe_classes
        self.gallery_per_class = gallery_per_class
        self.queries_per_class = queries_per_class
        self._table: Table | None = None

    def training(self) -> Table:
        if self._table is None:
            self._table = self._split(self.train)
        return self._table

    def probe(self) -> ProbeTables | None:
        root = check_folder(self.root, "data.root", "with a folder per split")
        if self.val is None:
            return None
        if not (root / self.val).is_dir():
            notice(f"no online probes: data.root={shown(root)} has no folder data.val={self.val}")
            return None
        table, queries = self.training(), self._split(self.val)
        names = _class_names(root / self.train)
        if _class_names(root / self.val) != names:
            unknown = sorted(set(_class_names(root / self.val)) ^ set(names))
            raise DataError(
                f"data.root={shown(root)}: {self.train} and {self.val} have different class folders ({len(unknown):,}, "
                f"e.g. {unknown[0]}). Give both the same, or type data.val=null to train without online probes"
            )
        chosen = np.argsort([_hash(name) for name in names])[: self.probe_classes]
        return ProbeTables(
            gallery=table.select(_drawn(table, chosen, self.gallery_per_class)),
            queries=queries.select(_drawn(queries, chosen, self.queries_per_class)),
            class_names=names,
        )

    def _split(self, split: str) -> Table:
        root = check_folder(self.root, "data.root", "with a folder per split")
        if not (root / split).is_dir():
            raise DataError(
                f"data.root={shown(root)} has no folder '{split}'. Point data.root=DIR to the folder of the splits, or "
                "type data.train=NAME. Pictures that lie in class folders directly train with data=folder "
                "data.labels=folder"
            )
        if not _class_names(root / split):
            raise DataError(
                f"{shown(root / split)} has no class folders, though pictures of a class must lie in one. Sort them by "
                "class, or type data.val=null to train without online probes"
            )
        return FolderSource(str(root / split), labels="folder", probe_share=0).training()


def _class_names(split: Path) -> list[str]:
    return sorted(path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))


def _drawn(table: Table, classes: np.ndarray[Any, Any], per_class: int) -> np.ndarray[Any, Any]:
    """Rows of a few pictures of each class, chosen by their names alone."""
    label = table.column("label")
    rows = np.flatnonzero(np.isin(label, classes))
    order = rows[np.argsort([_hash(table.identity(int(row))) for row in rows], kind="stable")]
    order = order[np.argsort(label[order], kind="stable")]
    place = np.arange(len(order)) - np.searchsorted(label[order], label[order])
    return np.sort(order[place < per_class])


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
