"""Random numbers and logged values of a step, over micro-batches and processes."""

from __future__ import annotations

from torch import Tensor

from lgrep.losses.gather import sum_over_processes, world


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


def mean_over_processes(value: Tensor) -> Tensor:
    """The detached mean over ranks; losses are scaled so that it is the loss of the global batch."""
    value = value.detach()
    return value if world()[1] == 1 else sum_over_processes(value.clone()) / world()[1]


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of torch's generators in one step (or micro-batch): a 63-bit mix of the three numbers.

    >>> step_seed(0, 1, 0) != step_seed(0, 0, 1)
    True
    """
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) & (2**64 - 1)
    value ^= value >> 31
    return (value * 0xD6E8FEB86659FD93 & (2**64 - 1)) >> 1
