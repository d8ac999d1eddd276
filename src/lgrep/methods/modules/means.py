"""Means of logged values over the micro-batches of an optimiser step."""

from __future__ import annotations

from torch import Tensor


class Means:
    """Adds up named scalars until all micro-batches of a step have been seen.

    >>> import torch
    >>> means = Means()
    >>> means.over({"loss": torch.tensor(1.0)}, 2) is None, means.over({"loss": torch.tensor(3.0)}, 2)
    (True, {'loss': tensor(2.)})
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._seen = 0

    def over(self, values: dict[str, Tensor], micro_batches: int) -> dict[str, Tensor] | None:
        """The means with the last micro-batch of a step, None before it."""
        if micro_batches == 1:
            return values
        self._sums = {name: self._sums[name] + value if self._seen else value for name, value in values.items()}
        self._seen += 1
        if self._seen < micro_batches:
            return None
        means = {name: total / micro_batches for name, total in self._sums.items()}
        self._sums, self._seen = {}, 0
        return means
