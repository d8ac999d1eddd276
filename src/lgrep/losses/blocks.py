"""Blocks of a similarity matrix: their size, their buffer, and the running sums over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CPU_BLOCK = 384  # side of a block for one thread: in float32 it fits the second-level cache of a core
DENSE_BYTES = 2**20  # a matrix up to this size is as fast computed at once (measured with one and two threads)
MEMORY_SHARE = 0.05  # of an accelerator's free memory, for a block


def block_rows(like: Tensor) -> int:
    """Rows and columns of a block: cache-sized on a CPU, a share of the free memory on an accelerator."""
    if torch.compiler.is_compiling():
        return CPU_BLOCK if like.device.type == "cpu" else 4096
    if like.device.type == "cpu":
        return CPU_BLOCK * min(4, math.ceil(math.sqrt(torch.get_num_threads())))
    if like.device.type != "cuda":
        return 4096
    free = torch.cuda.mem_get_info(like.device)[0]
    side = math.isqrt(int(free * MEMORY_SHARE) // (2 * like.element_size()))
    return max(1024, min(8192, side // 1024 * 1024))


def whole_matrix(rows: Tensor, columns: Tensor, block: int | None, limit: int = DENSE_BYTES) -> bool:
    """Whether the matrix is computed at once: asked for (`block` 0), or up to `limit` bytes large."""
    return block == 0 or (block is None and len(rows) * len(columns) * rows.element_size() <= limit)


def blocks(rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges that tile a matrix."""
    for start in range(0, rows, size):
        for column in range(0, columns, size):
            yield slice(start, min(start + size, rows)), slice(column, min(column + size, columns))


class Block:
    """A buffer for one block at a time, with hidden entries at -inf.

    Args:
        like: gives type and device.
        size: rows and columns at most.
        excluded: flat spans (start, stop, column): row start + k does not see column + k.
        ignore_row, ignore_column: Long[P], further hidden pairs.
    """

    def __init__(
        self,
        like: Tensor,
        size: int,
        excluded: Sequence[int] = (),
        ignore_row: Tensor | None = None,
        ignore_column: Tensor | None = None,
    ) -> None:
        self.buffer = like.new_empty(size * size + 1)  # the last element takes what lies outside the block
        self.spans = [tuple(excluded[i : i + 3]) for i in range(0, len(excluded), 3)]
        self.ignore = None if ignore_row is None or ignore_column is None else (ignore_row, ignore_column)

    def fill(self, part: Tensor, columns: Tensor, row: slice, column: slice) -> Tensor:
        """The block of `rows @ columns.T`, a view of the buffer; `part` is `rows[row]`."""
        height, width = row.stop - row.start, column.stop - column.start
        entries = self.buffer[: height * width].view(height, width)
        torch.mm(part, columns[column].T, out=entries)
        for start, stop, first in self.spans:
            low = max(row.start, start, column.start - first + start)
            high = min(row.stop, stop, column.stop - first + start)
            if low < high:
                left = low - start + first - column.start
                entries[low - row.start : high - row.start, left : left + high - low].fill_diagonal_(-math.inf)
        if self.ignore is not None:
            i, j = self.ignore
            inside = (i >= row.start) & (i < row.stop) & (j >= column.start) & (j < column.stop)
            place = torch.where(inside, (i - row.start) * width + j - column.start, self.buffer.numel() - 1)
            self.buffer.index_fill_(0, place, -math.inf)
        return entries

    def shaped(self, other: Tensor) -> Tensor:
        """The buffer in the shape of another block, contents undefined."""
        return self.buffer[: other.numel()].view(other.shape)


class RunningSums:
    """log-sum-exp of the rows (or columns) of a matrix whose blocks come one by one.

    With `bounded`, the blocks hold exp of the entries already, and are summed as they are. Otherwise entries are taken
    relative to the largest one so far (online softmax, https://arxiv.org/abs/1805.02867).
    """

    def __init__(self, size: int, like: Tensor, bounded: bool) -> None:
        self.total = like.new_zeros(size)
        self.largest = None if bounded else like.new_full((size,), -math.inf)

    def add(self, part: slice, entries: Tensor, dim: int) -> None:
        """Add a block over `dim` to a part of the sums."""
        if self.largest is None:
            self.total[part] += entries.sum(dim)
            return
        before = self.largest[part]
        largest = torch.maximum(before, entries.amax(dim))
        reference = largest.masked_fill(largest == -math.inf, 0.0)
        total = (entries - reference.unsqueeze(dim)).exp_().sum(dim)
        self.total[part] = self.total[part] * (before - reference).exp() + total
        self.largest[part] = largest

    def log(self) -> Tensor:
        """The result, -inf where nothing was seen."""
        if self.largest is None:
            return self.total.log()
        return self.total.log() + self.largest.masked_fill(self.largest == -math.inf, 0.0)
