"""Balanced assignment of samples to prototypes (Sinkhorn-Knopp), over the samples of all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lgrep.losses.checks import check_positive, check_tensor, counted_rows
from lgrep.losses.gather import world
from lgrep.losses.precision import at_least_float32, full_precision

BLOCK_ENTRIES = 2**24  # scores that are worked on at once: 64 MB in float32


class Scalings(NamedTuple):
    """The two scalings of a plan: plan[i, k] = exp(scores[i, k] / epsilon + sample[i] + prototype[k]).

    Attributes:
        sample: [n], logarithms, this process's samples.
        prototype: [K], logarithms, the same on all processes.
        epsilon: entropic regularisation that they were computed with.
    """

    sample: Tensor
    prototype: Tensor
    epsilon: float

    def plan(self, scores: Tensor, rows: slice | None = None, columns: slice | None = None) -> Tensor:
        """Assignments of a block of scores.

        Args:
            scores: the block [len(rows), len(columns)] of the scores [n, K].
            rows: which samples the block holds; all by default.
            columns: which prototypes it holds; all by default.
        """
        sample = self.sample if rows is None else self.sample[rows]
        prototype = self.prototype if columns is None else self.prototype[columns]
        with torch.no_grad(), full_precision(scores):
            # in the order in which the sample scaling was found, so that rows sum to 1 to the last digits
            return _scaled(scores, self.epsilon).add_(prototype).add_(sample[:, None]).exp_()


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments whose prototypes are used equally by the samples of the global batch.

    Starting from exp(scores / epsilon), each iteration scales the columns (prototypes) to equal sums and then
    the rows (samples) to sum 1. Logarithms are kept, so that no epsilon over- or underflows.

    Args:
        scores: [n, K], similarities of this process's samples with K prototypes; n may differ between
            processes.
        epsilon: entropic regularisation, in the units of the scores; a teacher temperature in DINO and iBOT.
        iterations: >= 1.

    Returns:
        [n, K] in float32 (float64 for float64 scores), without gradient. Rows sum to 1.

    Raises:
        ValueError: wrong shapes or types, an empty global batch, epsilon or iterations that are not positive.

    Paper:
        Cuturi, 2013, https://arxiv.org/abs/1306.0895; Caron et al., SwAV, 2020,
        https://arxiv.org/abs/2006.09882 (equations 3 to 5).

    >>> sinkhorn(torch.tensor([[1.0, 0.9], [1.0, 0.0]]), epsilon=0.01).round()
    tensor([[0., 1.],
            [1., 0.]])
    """
    check_tensor("scores", scores, "floating point", ("n", "K"))
    counted_rows("scores", scores.shape[0])
    block_rows = max(1, BLOCK_ENTRIES // scores.shape[1])
    with full_precision(scores):
        prototype = _prototype_scaling(lambda: torch.split(scores, block_rows), epsilon, iterations)
        return _scaled(scores, epsilon).add_(prototype).softmax(dim=1)


@torch.no_grad()
def sinkhorn_scalings(blocks: Callable[[], Iterable[Tensor]], epsilon: float = 0.05, iterations: int = 3) -> Scalings:
    """The scalings of `sinkhorn`'s plan for scores that are made block by block and never kept.

    Args:
        blocks: yields the rows of the scores in order, as tensors [b, K] with all K columns; is called
            `iterations` + 1 times. A process without samples yields one [0, K] tensor.
        epsilon: entropic regularisation.
        iterations: >= 1.

    Returns:
        n + K logarithms, from which any block of the plan is recomputed.

    Raises:
        ValueError: epsilon or iterations that are not positive.

    >>> image, text = torch.nn.functional.normalize(torch.randn(2, 6, 3), dim=2)
    >>> scalings = sinkhorn_scalings(lambda: (part @ text.T for part in image.split(2)))
    >>> block = scalings.plan(image[2:4] @ text.T, rows=slice(2, 4))
    >>> torch.allclose(block, sinkhorn(image @ text.T)[2:4])
    True
    """
    prototype = _prototype_scaling(blocks, epsilon, iterations)
    sample = torch.cat([-_scaled(block, epsilon).add_(prototype).logsumexp(dim=1) for block in blocks()])
    return Scalings(sample, prototype, epsilon)


def _prototype_scaling(blocks: Callable[[], Iterable[Tensor]], epsilon: float, iterations: int) -> Tensor:
    """The logarithms [K] that the last iteration adds to each row before its softmax."""
    check_positive(epsilon=epsilon, iterations=iterations)
    prototype = -_log_column_sums(_scaled(block, epsilon) for block in blocks())
    for _ in range(iterations - 1):
        balanced = (_scaled(block, epsilon).add_(prototype).log_softmax(dim=1) for block in blocks())
        prototype = prototype - _log_column_sums(balanced)
    return prototype


def _scaled(block: Tensor, epsilon: float) -> Tensor:
    return at_least_float32(block) / epsilon


def _log_column_sums(blocks: Iterable[Tensor]) -> Tensor:
    """Logarithms of the sums of exp(block) over the rows of all blocks and processes: [K]."""
    total: Tensor | None = None
    for block in blocks:
        part = block.logsumexp(dim=0)
        total = part if total is None else torch.logaddexp(total, part)
    if total is None:
        raise ValueError("blocks yielded no tensor; a process without samples has to yield one [0, K] tensor.")
    if world()[1] == 1:
        return total
    largest = total.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    sums = (total - largest).exp()
    dist.all_reduce(sums)
    return largest + sums.log()
