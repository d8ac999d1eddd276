"""scikit-learn's handwritten digits: a second set that is always at hand."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lgrep.evaluation.contract import Metric, Part

# 60 : 20 : 20 within each class, in a fixed pseudo-random order
_PARTS = ("train", "validation", "test")
_SHARES = (0.6, 0.8)


class DigitsSet:
    """1,797 grey digits of 8 x 8 px, split 60 : 20 : 20 within every class, the same whatever the seed of a run."""

    name = "digits"
    num_classes = 10
    class_names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    templates = ("a photo of the handwritten digit {}.",)
    metric: Metric = "top1"
    notes = ("8 x 8 px, scikit-learn's copy; the split is this project's own",)

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # grey levels 0..16 to 0..255
        self.images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        self.labels = torch.from_numpy(digits.target.astype(np.int64))
        self.data_hash = hashlib.sha256(self.images.tobytes() + digits.target.astype("<i8").tobytes()).hexdigest()[:16]
        self.positions = stratified_parts(self.labels)
        train = self.images[self.positions["train"].numpy()] / 255.0
        grey, spread = float(train.mean()), float(train.std())
        self.mean, self.std = (grey, grey, grey), (spread, spread, spread)
        pool = [Image.fromarray(image).convert("RGB") for image in self.images]
        self._parts = {
            part: Part([pool[row] for row in rows.tolist()], self.labels[rows], pool=pool, positions=rows)
            for part, rows in self.positions.items()
        }

    def parts(self) -> dict[str, Part]:
        """`train`, `validation` and `test`; one pool in scikit-learn's order."""
        return self._parts


def stratified_parts(labels: Tensor) -> dict[str, Tensor]:
    """Ascending row numbers of train, validation and test (60 : 20 : 20 in every class), always the same."""
    order = np.random.RandomState(0)  # the legacy generator's stream is frozen for good
    chosen: dict[str, list[int]] = {part: [] for part in _PARTS}
    for label in sorted(set(labels.tolist())):
        rows = order.permutation((labels == label).nonzero()[:, 0].numpy())
        cuts = [round(share * len(rows)) for share in _SHARES]
        for part, some in zip(_PARTS, np.split(rows, cuts), strict=True):
            chosen[part] += some.tolist()
    return {part: torch.tensor(sorted(some)) for part, some in chosen.items()}
