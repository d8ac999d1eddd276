"""Mixing the parts of a union by share: the anchors of an epoch, whatever the sizes of the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lgrep.data.randomness import ORDER_STREAM, keyed_generator
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class Mixture:
    """Which share of an epoch's anchors comes from each part of a union.

    A source that mixes has one as its attribute `mixture`; its table has the column `part`.

    Attributes:
        names: of the parts, in the order of their numbers.
        shares: of the parts; positive, 1 in sum.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, shares: Mapping[str, float], names: Sequence[str]) -> Mixture:
        """Check shares by name; they are divided by their sum.

        Raises:
            ConfigError: other names than the parts', or a share that is not positive.
        """
        for name in shares:
            if name not in names:
                raise ConfigError(f"data.shares.{name}: there is no such part; {did_you_mean(name, names)}")
        missing = [name for name in names if name not in shares]
        if missing:
            raise ConfigError(
                f"data.shares lacks {', '.join(missing)}: every part needs a share. Type data.shares.{missing[0]}=0.5, "
                f"or leave the part out with ~data.parts.{missing[0]}"
            )
        wrong = [name for name, share in shares.items() if not 0 < share < float("inf")]
        if wrong:
            raise ConfigError(f"data.shares.{wrong[0]}={shares[wrong[0]]}: a share must be a positive number")
        total = sum(shares.values())
        return cls(tuple(names), tuple(shares[name] / total for name in names))

    def split(
        self, table: Table, anchors: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]
    ) -> list[np.ndarray[Any, Any]]:
        """The anchors of each part, in their order.

        Args:
            table: the union, or rows selected of it.
            anchors: of an epoch.
            rows: a picture of each anchor, which says its part.

        Raises:
            DataError: a part has no anchor.
        """
        part = table.column("part")[rows]
        parts = [anchors[part == number] for number in range(len(self.names))]
        empty = [name for name, found in zip(self.names, parts, strict=True) if not len(found)]
        if empty:
            raise DataError(
                f"{table.name}: the part {empty[0]} has nothing to train on, but a share of the epoch. Leave it out with "
                f"~data.parts.{empty[0]} ~data.shares.{empty[0]}, or change data.where"
            )
        return parts


def mixed_order(
    seed: int, epoch: int, parts: Sequence[np.ndarray[Any, Any]], shares: Sequence[float], length: int
) -> np.ndarray[Any, Any]:
    """The anchors of one epoch with fixed shares, keyed by (seed, epoch).

    A part with fewer anchors than its share asks for is passed through again and again, each time in another order;
    the last pass is a random part of it. So in an epoch no two anchors of a part differ by more than one in how often
    they come, and repetitions lie about one pass apart.

    Args:
        seed: of the run.
        epoch: number of the epoch.
        parts: anchors of each part, none empty.
        shares: of each part, 1 in sum.
        length: anchors of the epoch.

    Returns:
        [length] anchors; the count of each part is its share of `length` to rounding.

    Example:
        >>> order = mixed_order(0, 0, [np.arange(3), np.arange(10, 20)], [0.5, 0.5], 12)
        >>> sorted(order[order < 10].tolist()), int((order >= 10).sum())
        ([0, 0, 1, 1, 2, 2], 6)
    """
    counts = _counts(shares, length)
    slots = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
    keyed_generator(seed, epoch, 0, ORDER_STREAM).shuffle(slots)
    order = np.empty(length, dtype=np.result_type(*parts))
    for number, (anchors, count) in enumerate(zip(parts, counts, strict=True)):
        rng = keyed_generator(seed, epoch, 1 + number, ORDER_STREAM)
        passes = [rng.permutation(anchors) for _ in range(-(-int(count) // len(anchors)))]
        if passes:
            order[slots == number] = np.concatenate(passes)[:count]
    return order


class MixedOrder:
    """Epochs of `mixed_order`, as long as the union.

    Args:
        parts: anchors of each part.
        shares: of each part, 1 in sum.
        seed: of the run.
    """

    def __init__(self, parts: Sequence[np.ndarray[Any, Any]], shares: Sequence[float], seed: int) -> None:
        self.parts, self.shares, self.seed = list(parts), tuple(shares), seed

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __call__(self, epoch: int) -> np.ndarray[Any, Any]:
        return mixed_order(self.seed, epoch, self.parts, self.shares, len(self))


def _counts(shares: Sequence[float], length: int) -> np.ndarray[Any, Any]:
    """Whole numbers next to share * length with the right sum (largest remainders; the first part where equal)."""
    exact = np.asarray(shares, dtype=np.float64) * length
    counts = np.floor(exact).astype(np.int64)
    remainders = np.round(exact - counts, 9)
    counts[np.argsort(-remainders, kind="stable")[: length - int(counts.sum())]] += 1
    return counts
