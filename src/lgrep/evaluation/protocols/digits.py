"""scikit-learn's handwritten digits: a second set that is always at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lgrep.evaluation.protocols.base import Score, knn_score, linear_score, register

# 60 : 20 : 20 within each class, in a fixed pseudo-random order
_PARTS = ("train", "validation", "test")
_SHARES = (0.6, 0.8)


@register("digits")
class DigitsProtocol:
    """kNN and linear probe on 1,797 grey digits of 8 x 8 px.

    Split 60 : 20 : 20 into train, validation and test within every class, fixed whatever the seed of a
    run. kNN: gallery = train, queries = test. Linear: C on validation, refit on both, tested once.

    Args:
        k: neighbours of the kNN vote.
    """

    name = "digits"
    num_classes = 10

    def __init__(self, k: int = 20) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # grey levels 0..16 to 0..255
        self.images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        self.labels = torch.from_numpy(digits.target.astype(np.int64))
        self.k = k
        self.data_hash = hashlib.sha256(self.images.tobytes() + digits.target.astype("<i8").tobytes()).hexdigest()[:16]
        self.parts = stratified_parts(self.labels)
        train = self.images[self.parts["train"].numpy()] / 255.0
        grey, spread = float(train.mean()), float(train.std())
        self.mean, self.std = (grey, grey, grey), (spread, spread, spread)

    def pictures(self) -> list[Image.Image]:
        """All digits, in scikit-learn's order."""
        return [Image.fromarray(image).convert("RGB") for image in self.images]

    def scores(self, features: Tensor) -> Iterator[Score]:
        """Run the evaluators on features [1797, D]."""
        split = {part: (features[index], self.labels[index]) for part, index in self.parts.items()}
        yield knn_score(split["train"], split["test"], self.k, self.num_classes)
        yield linear_score(split["train"], split["validation"], split["test"], self.num_classes)


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
