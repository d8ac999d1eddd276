"""The embedded emoji set under its fixed protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lgrep.data import emoji
from lgrep.data.probe import ProbeTables
from lgrep.data.table import Table

Fold = Annotated[int, Field(ge=0, le=4)]


class EmojiSource:
    """Drawings of emoji by five designers; captions are their names. Works with nothing but the package.

    The held-out designer and the captions of the validation and test folds are never trained on.

    Args:
        test_fold: fold kept for the final test.
        val_fold: fold that the online probes look at.
        designers: `seen` (the protocol) or a list of designers to train on.
    """

    def __init__(
        self, test_fold: Fold = 0, val_fold: Fold = 1, designers: Literal["seen"] | tuple[str, ...] = "seen"
    ) -> None:
        self.test_fold = test_fold
        self.val_fold = val_fold
        self.designers = designers

    def training(self) -> Table:
        return self._select("train")

    def probe(self) -> ProbeTables:
        return ProbeTables(
            gallery=self._select("train", labelled=True),
            queries=self._select("val", labelled=True),
            class_names=emoji.class_names(),
        )

    def _select(self, captions: str, labelled: bool = False) -> Table:
        table = emoji.open_emoji()
        rows = emoji.rows(
            table,
            captions=captions,
            designers=self.designers,
            labelled=labelled,
            test_fold=self.test_fold,
            val_fold=self.val_fold,
        )
        return table.select(rows)
