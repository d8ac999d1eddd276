"""Few-shot episodes, drawn and classified many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lgrep.errors import DataError

BLOCK = 250  # episodes drawn together; a part of what a seed means
BLOCK_BYTES = 128 * 2**20  # features of the episodes that are classified together
PAIRS_PER_EPISODE = 5000  # pairs of rows that cost as much time as the features of an episode, about
PRODUCTS_BYTES = 2**29  # of the products of all pairs of rows, where they are found once for all episodes
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
    """Long[E], rightly classified queries of every episode, see `EpisodeClassifier`."""
    return EpisodeClassifier(train, test, classifier, centre, unit, len(episodes.support))(episodes)


class EpisodeClassifier:
    """Classifies episodes of the same features.

    As in SimpleShot (Wang et al., arXiv 1911.04623) the mean of an episode's support features is subtracted and
    features are scaled to unit length; `prototype` then takes the class of the nearest mean of its support,
    `nearest` that of the nearest support row (Euclidean; the first class at a tie). All of it follows from inner
    products, which many episodes share: sets of moderate size have them computed once.

    Args:
        train: features [N, D].
        test: features [M, D].
        classifier: see above.
        centre: subtract the mean of the support.
        unit: scale features to unit length.
        episodes: about how many will be asked for.
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        classifier: Classifier = "prototype",
        centre: bool = True,
        unit: bool = True,
        episodes: int = 5000,
    ) -> None:
        self.train, self.test, self.classifier, self.centre, self.unit = train, test, classifier, centre, unit
        self.products: tuple[Tensor, Tensor, Tensor] | None = None
        if 4 * len(train) * (len(train) + len(test)) <= min(PRODUCTS_BYTES, PAIRS_PER_EPISODE * 4 * episodes):
            support, query = train.float(), test.float()
            if (
                centre
            ):  # of an episode's mean nothing changes; products of features far from 0 would be rounded coarsely
                mean = support.mean(dim=0)
                support, query = support - mean, query - mean
            self.products = support @ support.T, query @ support.T, query.square().sum(dim=1)

    def __call__(self, episodes: Episodes) -> Tensor:
        """Long[E] on the CPU, rightly classified queries of every episode."""
        count, ways, shots = episodes.support.shape
        rows = ways * (shots + episodes.query.shape[2])
        width = self.train.shape[1] if self.products is None else rows
        at_once = max(1, BLOCK_BYTES // max(1, 4 * rows * width))
        right = []
        for start in range(0, count, at_once):
            some = slice(start, start + at_once)
            support, query = episodes.support[some].flatten(1), episodes.query[some].flatten(1)
            within, across, lengths = self._products(support, query)
            nearest = _nearest(within, across, lengths, shots, self)
            truth = torch.arange(ways, device=nearest.device).repeat_interleave(episodes.query.shape[2])
            hits = (nearest == truth) & episodes.valid[some].flatten(1).to(nearest.device)
            right.append(hits.sum(dim=1))
        return torch.cat(right).cpu()

    def _products(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows [E, S] and [E, Q]: products [E, S, S] and [E, Q, S], squared lengths [E, Q]."""
        if self.products is not None:
            within, across, lengths = self.products
            return (
                within[support[:, :, None], support[:, None, :]],
                across[query[:, :, None], support[:, None, :]],
                lengths[query],
            )
        near, far = self.train[support].float(), self.test[query].float()
        if self.centre:
            mean = near.mean(dim=1, keepdim=True)
            near, far = near - mean, far - mean
        return near @ near.transpose(1, 2), far @ near.transpose(1, 2), far.square().sum(dim=2)


def _nearest(within: Tensor, across: Tensor, lengths: Tensor, shots: int, how: EpisodeClassifier) -> Tensor:
    """Long[E, Q], the class of the nearest place, from products as of `EpisodeClassifier._products`."""
    if how.centre:
        means = within.mean(dim=2)  # of every support row with the mean of all
        mean, far = means.mean(dim=1), across.mean(dim=2)
        lengths = lengths - 2 * far + mean[:, None]
        within = within - means[:, :, None] - means[:, None, :] + mean[:, None, None]
        across = across - far[:, :, None] - means[:, None, :] + mean[:, None, None]
    if how.unit:
        own = _length(within.diagonal(dim1=1, dim2=2))
        within = within / own[:, :, None] / own[:, None, :]
        across = across / _length(lengths)[:, :, None] / own[:, None, :]
    if how.classifier == "nearest":
        distances = within.diagonal(dim1=1, dim2=2)[:, None] - 2 * across
        return torch.div(distances.argmin(dim=2), shots, rounding_mode="floor")
    episodes, places = within.shape[:2]
    ways = places // shots
    means = within.reshape(episodes, ways, shots, ways, shots).mean(dim=(2, 4))
    products = across.reshape(episodes, -1, ways, shots).mean(dim=3)
    return (means.diagonal(dim1=1, dim2=2)[:, None] - 2 * products).argmin(dim=2)


def _length(squares: Tensor) -> Tensor:
    return squares.clamp_min(0).sqrt().clamp_min(1e-12)


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
