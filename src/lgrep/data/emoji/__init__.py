"""The embedded picture set `emoji`: 1,564 captions, each drawn by four to six designers, and its protocol.

`docs/data_card_emoji.md` describes the pictures, their licences, the splits and the limits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lgrep.data.table import Table, open_set
from lgrep.errors import ConfigError, DataError, did_you_mean

FOLDS = 5
CAPTIONS = ("train", "val", "test", "train+val", "all")
DESIGNERS = ("seen", "unseen", "all")


def open_emoji() -> Table:
    """The whole set: pictures of 64 x 64 px on white; `rows` picks the part that the protocol allows.

    >>> table = open_emoji()
    >>> table.num_groups
    1564
    """
    return open_set(_folder())


def class_names() -> list[str]:
    """The 29 subgroups of the labelled task, in the order of the column `label`."""
    return list(_about()["classes"])


def subgroup_names() -> list[str]:
    """All 95 subgroups, in the order of the caption column `subgroup_id`."""
    return list(_about()["subgroups"])


def held_out_designer() -> str:
    """The designer whose drawings are never trained on."""
    return str(_about()["held_out_designer"])


def designer_credits() -> dict[str, dict[str, Any]]:
    """For each designer: `pictures` (count), `package`, `licence`, `credit` and `source`."""
    designers: dict[str, dict[str, Any]] = _about()["designers"]
    return {name: dict(credit) for name, credit in designers.items()}


@dataclass(frozen=True)
class EmojiSplit:
    """A part of the set under the fixed protocol, checked when it is made.

    Folds hold whole clusters of near-duplicate captions: one is test, one validation, the others train.

    Attributes:
        captions: "train", "val", "test", "train+val" or "all".
        designers: "seen" (all but the held-out one), "unseen" (the held-out one), "all", or names.
        labelled: only pictures of the 29 classes.
        test_fold: the test fold, 0-4; 0 in single-split runs.
        val_fold: the validation fold, 0-4, another one; 1 in single-split runs.

    Raises:
        ConfigError: a wrong name or fold; the message has the allowed ones.

    >>> len(EmojiSplit("test", "unseen").rows(open_emoji()))
    305
    """

    captions: str = "train"
    designers: str | tuple[str, ...] = "seen"
    labelled: bool = False
    test_fold: int = 0
    val_fold: int = 1

    def __post_init__(self) -> None:
        if self.captions not in CAPTIONS:
            raise ConfigError(
                f"captions={self.captions} is no part of the emoji set: {did_you_mean(str(self.captions), CAPTIONS)} "
                f"(one of {', '.join(CAPTIONS)})"
            )
        for name in ("test_fold", "val_fold"):
            if getattr(self, name) not in range(FOLDS):
                raise ConfigError(f"{name}={getattr(self, name)}: the folds of the emoji set are 0 to {FOLDS - 1}")
        if self.test_fold == self.val_fold:
            raise ConfigError(f"test_fold and val_fold are both {self.test_fold}; choose two folds of 0 to {FOLDS - 1}")
        self.designer_names()

    def designer_names(self) -> tuple[str, ...]:
        """The designers whose drawings are in this part."""
        known, held_out = tuple(designer_credits()), held_out_designer()
        chosen = {"seen": tuple(name for name in known if name != held_out), "unseen": (held_out,), "all": known}
        if isinstance(self.designers, str) and self.designers in chosen:
            return chosen[self.designers]
        names = (self.designers,) if isinstance(self.designers, str) else tuple(self.designers)
        wrong = [name for name in names if name not in known]
        if wrong or not names:
            raise ConfigError(
                f"designers={','.join(map(str, names)) or '()'} is not known in the emoji set: choose one of "
                f"{', '.join(DESIGNERS)}, or names among {', '.join(known)}"
            )
        return names

    def folds(self) -> tuple[int, ...]:
        """The folds whose captions are in this part."""
        train = tuple(fold for fold in range(FOLDS) if fold not in (self.test_fold, self.val_fold))
        return {
            "train": train,
            "val": (self.val_fold,),
            "test": (self.test_fold,),
            "train+val": (*train, self.val_fold),
            "all": tuple(range(FOLDS)),
        }[self.captions]

    def rows(self, table: Table) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of this part in `table` (from `open_emoji`, or a selection of it), ascending int64 [N].

        Raises:
            DataError: the table is not the emoji set.
        """
        if not table.has("designer") or "fold" not in table.captions.column_names:
            raise DataError(f"the set {table.name!r} has no designers and folds; this protocol is for `emoji` only")
        chosen = np.isin(table.caption_column("fold"), self.folds())[table.group]
        chosen &= np.isin(table.column("designer").astype(str), self.designer_names())
        if self.labelled:
            chosen &= table.column("label") >= 0
        return np.flatnonzero(chosen).astype(np.int64)


def rows(
    table: Table,
    captions: str = "train",
    designers: str | tuple[str, ...] = "seen",
    labelled: bool = False,
    test_fold: int = 0,
    val_fold: int = 1,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Picture rows of one part of the protocol; `EmojiSplit` explains the arguments and errors."""
    return EmojiSplit(captions, designers, labelled, test_fold, val_fold).rows(table)


def _folder() -> Path:
    folder = resources.files(__name__) / "set"
    if not isinstance(folder, Path):
        raise DataError("the emoji set is memory-mapped and needs lgrep installed unzipped: pip install lgrep")
    return folder


@cache
def _about() -> dict[str, Any]:
    about: dict[str, Any] = json.loads((_folder() / "set.json").read_text(encoding="utf-8"))
    return about
