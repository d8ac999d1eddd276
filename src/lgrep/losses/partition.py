"""Log-partition functions of similarity matrices that are never stored.

With unit embeddings a [n, D] and b [N, D] and a scale s, every loss of the softmax family is::

    sum of  log sum_j exp(s a_i b_j)  over anchors  -  a part that is linear in the similarities

The linear part needs no matrix. The log-partition is computed from blocks of the matrix that are reduced at once and
computed again in the backward pass, so that memory grows with n + N instead of n N. A small matrix is computed
as a whole, which is also the readable form of what the blocks compute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lgrep.losses.blocks import DENSE_BYTES, block_rows, whole_matrix
from lgrep.losses.kernels import log_partition_both_op, log_partition_op, log_partition_self_op

Span = tuple[int, int, int]  # rows start <= i < stop do not see the columns third, third + 1, ...
Pairs = tuple[Tensor, Tensor]  # Long[P] rows and Long[P] columns

# exp of a similarity needs no maximum subtracted below these: sums of 10^9 terms stay within range and precision
SAFE_SCALE = {torch.float32: 40.0, torch.float64: 300.0}


def log_partition(
    rows: Tensor,
    columns: Tensor,
    scale: float | Tensor,
    excluded: Sequence[Span] = (),
    ignore: Pairs | None = None,
    block: int | None = None,
) -> Tensor:
    """The log of sum_j exp(scale * rows_i . columns_j) over the columns that row i may see.

    Args:
        rows: [n, D], unit length.
        columns: [N, D], unit length.
        scale: multiplier; a 0-dim tensor gets a gradient.
        excluded: spans (start, stop, column): row start + k does not see column + k.
        ignore: further pairs (Long[P], Long[P]) of a row and a column that it does not see.
        block: rows and columns of a block; None chooses, 0 computes the whole matrix at once.

    Returns:
        [n]; -inf for a row that sees no column.

    >>> log_partition(torch.eye(2), torch.eye(2), 1.0, excluded=[(0, 2, 0)])
    tensor([0., 0.])
    """
    multiplier, bounded = _scale(scale, rows)
    if _whole(rows, columns, bounded, block):
        matrix = scale * rows @ columns.T
        if excluded or ignore is not None:
            matrix = matrix.masked_fill(_hidden(matrix, excluded, ignore), -torch.inf)
        return matrix.logsumexp(dim=1)
    spans = [number for span in excluded for number in span]
    pairs = (None, None) if ignore is None else ignore
    result: Tensor = log_partition_op(rows, columns, multiplier, spans, *pairs, bounded, block or block_rows(rows))
    return result


def log_partition_both(
    rows: Tensor, columns: Tensor, scale: float | Tensor, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """`log_partition` of the rows over the columns [n] and of the columns over the rows [N], from one matrix."""
    multiplier, bounded = _scale(scale, rows)
    if _whole(rows, columns, bounded, block):
        matrix = scale * rows @ columns.T
        return matrix.logsumexp(dim=1), matrix.logsumexp(dim=0)
    over_columns, over_rows = log_partition_both_op(rows, columns, multiplier, bounded, block or block_rows(rows))
    return over_columns, over_rows


def log_partition_self(embeddings: Tensor, scale: float | Tensor, block: int | None = None) -> Tensor:
    """`log_partition` [n] of rows among themselves, each without itself; each block of the half matrix once."""
    multiplier, bounded = _scale(scale, embeddings)
    if _whole(embeddings, embeddings, bounded, block):
        return log_partition(embeddings, embeddings, scale, [(0, len(embeddings), 0)], block=0)
    result: Tensor = log_partition_self_op(embeddings, multiplier, bounded, block or block_rows(embeddings))
    return result


def _whole(rows: Tensor, columns: Tensor, bounded: bool, block: int | None) -> bool:
    """Whether the matrix is computed at once; the online maximum makes blocks pay later."""
    return whole_matrix(rows, columns, block, DENSE_BYTES if bounded else 4 * DENSE_BYTES)


def _scale(scale: float | Tensor, like: Tensor) -> tuple[Tensor, bool]:
    """The scale as a tensor, and whether exp of a similarity is safe as it stands."""
    limit = SAFE_SCALE[like.dtype]
    if isinstance(scale, Tensor):
        readable = scale.device.type == "cpu" and not torch.compiler.is_compiling()
        return scale.to(like), readable and float(scale.detach()) <= limit
    return torch.full((), scale, dtype=like.dtype, device=like.device), scale <= limit


def _hidden(matrix: Tensor, excluded: Sequence[Span], ignore: Pairs | None) -> Tensor:
    """Mask [n, N] of the entries that are not seen."""
    columns = torch.arange(matrix.shape[1], device=matrix.device)
    hidden = torch.zeros(matrix.shape, dtype=torch.bool, device=matrix.device)
    for start, stop, column in excluded:
        own = torch.full((matrix.shape[0],), -1, device=matrix.device)
        own[start:stop] = columns[column : column + stop - start]
        hidden = hidden | (own[:, None] == columns)
    if ignore is not None:
        hidden = hidden.index_put(ignore, hidden.new_ones(()))
    return hidden
