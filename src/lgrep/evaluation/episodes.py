"""Few-shot episodes, drawn and classified many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lgrep.errors import DataError

BLOCK = 250  # episodes drawn together; a part of what a seed means
BLOCK_BYTES = 128 * 2**20  # features of the episodes that are classified together
Classifier = Literal["prototype", "nearest"]


@dataclass(frozen=True)
class Episodes:
    """Rows of some episodes.

    Attributes:
        support: Long[E, W, S], rows of the training features.
        query: Long[E, W, Q], rows of the test features; 0 where `valid` is False.
        valid: Bool[E, W, Q]; False where a class has fewer than Q test rows.
    """

    support: Tensor
    query: Tensor
    valid: Tensor


def usable_classes(train_labels: Tensor, test_labels: Tensor, shots: int) -> Tensor:
    """Long[K], ascending: classes with at least `shots` training rows and a test row; -1 is no class."""
    classes, counts = torch.unique(train_labels[train_labels >= 0], return_counts=True)
    wanted: Tensor = classes[counts >= shots]
    return wanted[torch.isin(wanted, test_labels)]


def draw_episodes(
    train_labels: Tensor,
    test_labels: Tensor,
    episodes: int = 5000,
    ways: int = 5,
    shots: int = 5,
    queries: int = 6,
    seed: int = 0,
) -> Iterator[Episodes]:
    """Episodes by blocks: classes, support rows and query rows drawn without replacement.

    They follow from the labels and the seed alone, so all models are measured on the same ones, and fewer episodes are
    the first of more. A class with fewer test rows than `queries` gives those it has.

    Args:
        train_labels: Long[N], -1 for rows to leave out.
        test_labels: Long[M], likewise.
        episodes: E.
        ways: W, classes per episode.
        shots: S, training rows per class.
        queries: Q, test rows per class.
        seed: of a generator of its own.

    Raises:
        DataError: fewer than `ways` classes can be used.
    """
    classes = usable_classes(train_labels, test_labels, shots)
    if len(classes) < ways:
        raise DataError(
            f"{ways}-way episodes of {shots} shots need {ways} classes with {shots} training pictures and a test picture; "
            f"there are {len(classes)}. Type fewer ways or shots"
        )
    train, test = _Rows.of(train_labels, classes), _Rows.of(test_labels, classes)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, episodes, BLOCK):
        chosen = torch.rand(BLOCK, len(classes), generator=generator).topk(ways, dim=1).indices
        support, _ = train.draw(chosen, shots, generator)
        query, valid = test.draw(chosen, queries, generator)
        some = slice(0, min(BLOCK, episodes - start))
        yield Episodes(support[some], query[some], valid[some])


def classify(
    train: Tensor,
    test: Tensor,
    episodes: Episodes,
    classifier: Classifier = "prototype",
    centre: bool = True,
    unit: bool = True,
) -> Tensor:
    """Long[E], rightly classified queries of every episode.

    As in SimpleShot (Wang et al., arXiv 1911.04623) the mean of an episode's support features is subtracted and
    features are scaled to unit length; `prototype` then takes the class of the nearest mean of its support,
    `nearest` that of the nearest support row (Euclidean; the first class at a tie).

    Args:
        train: features [N, D].
        test: features [M, D].
        episodes: rows of both.
        classifier: see above.
        centre: subtract the mean of the support.
        unit: scale features to unit length.
    """
    count, ways, shots = episodes.support.shape
    rows = ways * (shots + episodes.query.shape[2])
    at_once = max(1, BLOCK_BYTES // max(1, 4 * rows * train.shape[1]))
    right = []
    for start in range(0, count, at_once):
        some = slice(start, start + at_once)
        support, query = train[episodes.support[some]].float(), test[episodes.query[some]].float()
        if centre:
            mean = support.mean(dim=(1, 2), keepdim=True)
            support, query = support - mean, query - mean
        if unit:
            support, query = normalize(support, dim=-1), normalize(query, dim=-1)
        places = support.mean(dim=2) if classifier == "prototype" else support.flatten(1, 2)
        nearest = _distances(query.flatten(1, 2), places).argmin(dim=2)
        if classifier == "nearest":
            nearest = nearest // shots
        truth = torch.arange(ways, device=nearest.device).repeat_interleave(query.shape[2])
        hits = (nearest == truth) & episodes.valid[some].flatten(1).to(nearest.device)
        right.append(hits.sum(dim=1))
    return torch.cat(right).cpu()


def _distances(query: Tensor, places: Tensor) -> Tensor:
    """Squared distances [E, Q, P] without the part that is the same for all places."""
    return places.square().sum(dim=2)[:, None] - 2 * query @ places.transpose(1, 2)


@dataclass
class _Rows:
    """Rows of every class, one class after the other."""

    rows: Tensor
    first: Tensor
    size: Tensor

    @classmethod
    def of(cls, labels: Tensor, classes: Tensor) -> _Rows:
        kept = torch.isin(labels, classes).nonzero()[:, 0]
        number = torch.searchsorted(classes, labels[kept])
        size = torch.bincount(number, minlength=len(classes))
        return cls(kept[number.argsort(stable=True)], size.cumsum(0) - size, size)

    def draw(self, classes: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Different rows [*classes.shape, count] of each class and which of them exist.

        R. Floyd's algorithm: every subset of a class is equally likely, and no list of all its rows is made.
        """
        size = self.size[classes]
        wanted = size.clamp(max=count)
        taken = torch.full((*classes.shape, count), -1, dtype=torch.long)
        for step in range(count):
            last = size - wanted + step  # the largest number that may be drawn in this step
            number = (torch.rand(classes.shape, generator=generator, dtype=torch.float64) * (last + 1)).long()
            number = torch.where((taken == number[..., None]).any(dim=-1), last, number)
            taken[..., step] = torch.where(step < wanted, number, -1)
        valid = taken >= 0
        return self.rows[(self.first[classes][..., None] + taken.clamp(min=0))].where(valid, 0), valid
