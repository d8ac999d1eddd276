"""Rows of all processes, with exact gradients, and the layout of those rows.

Every function acts on the default process group when one of more than one process exists, and returns its
input unchanged otherwise. All of them are collectives: each process has to call them in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradients = Literal["exact", "local", "none"]
GRADIENTS: tuple[str, ...] = get_args(Gradients)


@dataclass(frozen=True)
class Rows:
    """How the rows of a global batch lie over the processes: contiguous slices in rank order.

    >>> layout = Rows(rank=1, counts=(4, 3, 5))
    >>> layout.offset, layout.total, layout.longest
    (4, 12, 5)
    """

    rank: int
    counts: tuple[int, ...]

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return len(self.counts)

    @property
    def offset(self) -> int:
        """Index in the global batch of this process's first row."""
        return sum(self.counts[: self.rank])

    @property
    def own(self) -> slice:
        """This process's rows in the global batch."""
        return slice(self.offset, self.offset + self.counts[self.rank])

    @property
    def total(self) -> int:
        """Rows of the global batch."""
        return sum(self.counts)

    @property
    def longest(self) -> int:
        """Rows of the largest slice, to which the others are padded while they travel."""
        return max(self.counts)


def world() -> tuple[int, int]:
    """(rank, number of processes) of the default process group; (0, 1) when there is none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def global_rows(local_rows: int) -> Rows:
    """Exchanges the row counts of all processes.

    The exchange runs between the CPUs, so it never waits for an accelerator's queue. One layout serves
    every gather of tensors with the same number of rows.

    Args:
        local_rows: rows that this process holds; may differ between processes and may be 0.
    """
    rank, size = world()
    if size == 1:
        return Rows(0, (local_rows,))
    counts = torch.zeros(size, dtype=torch.long)
    counts[rank] = local_rows
    dist.all_reduce(counts, group=_cpu_group())
    return Rows(rank, tuple(counts.tolist()))


def row_offset(local_rows: int) -> int:
    """Index in the global batch of this process's first row."""
    return global_rows(local_rows).offset


def anchor_places(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Long [count]: numbers of this process's anchors that no other process has, as positional labels.

    Ranks may hold different numbers of anchors; a stride above all of them keeps the places distinct.
    """
    return torch.arange(count, device=device) + world()[0] * 2**32


@overload
def gather(tensor: Tensor, /, *, rows: Rows | None = None) -> Tensor: ...
@overload
def gather(first: Tensor, second: Tensor, /, *more: Tensor, rows: Rows | None = None) -> tuple[Tensor, ...]: ...
def gather(*tensors: Tensor, rows: Rows | None = None) -> Tensor | tuple[Tensor, ...]:
    """Rows of all processes, without gradient. Several tensors travel in one collective.

    Args:
        tensors: each [n_r, ...] of any type, with the same number of rows n_r.
        rows: their layout if it is known already (`global_rows`).

    Returns:
        For each tensor [N, ...], in rank order; a tuple unless one tensor was given.

    Raises:
        ValueError: the tensors differ in their number of rows, or `rows` is another batch's layout.

    >>> gather(torch.tensor([3, 4]))
    tensor([3, 4])
    """
    if len({tensor.shape[0] for tensor in tensors}) != 1:
        raise ValueError(f"gather needs tensors with one number of rows, got {[tuple(t.shape) for t in tensors]}.")
    rows = _checked(tensors[0], rows)
    if rows.world_size == 1:
        return tensors[0].detach() if len(tensors) == 1 else tuple(tensor.detach() for tensor in tensors)
    packed = [_as_bytes(tensor.detach()) for tensor in tensors]
    parts = torch.split(_all_gather(torch.cat(packed, dim=1), rows), [part.shape[1] for part in packed], dim=1)
    gathered = tuple(
        part.contiguous().view(tensor.dtype).reshape(rows.total, *tensor.shape[1:])
        for part, tensor in zip(parts, tensors, strict=True)
    )
    return gathered[0] if len(gathered) == 1 else gathered


def gather_with_gradient(tensor: Tensor, rows: Rows | None = None) -> Tensor:
    """Rows of all processes, whose gradients return to the processes that own them.

    The backward pass sums over processes the gradients that reach each row (a reduce-scatter), so no remote
    gradient is lost. Every process has to run it: use the result in the loss on each of them.

    Args:
        tensor: [n_r, ...] floating point; n_r may differ between processes and may be 0.
        rows: the layout if it is known already (`global_rows`).

    Returns:
        [N, ...] in rank order, N being the sum of all n_r.

    Raises:
        ValueError: `rows` is another batch's layout.

    >>> gather_with_gradient(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    rows = _checked(tensor, rows)
    if rows.world_size == 1:
        return tensor
    gathered: Tensor = _GatherWithGradient.apply(tensor, rows)
    return gathered


def check_gradients(gradients: str) -> None:
    """Refuses another choice than those of `gather_keys`.

    Raises:
        ValueError: with the choice and the allowed ones.
    """
    if gradients not in GRADIENTS:
        raise ValueError(f"gather_gradients must be one of {', '.join(GRADIENTS)}; got {gradients!r}.")


def gather_keys(tensor: Tensor, rows: Rows | None = None, gradients: Gradients = "exact") -> Tensor:
    """Rows of all processes as the candidates of a contrastive loss.

    Args:
        tensor: [n_r, ...] floating point.
        rows: the layout if it is known already (`global_rows`).
        gradients: what flows back to a row for its part as a candidate:

            - `exact`: everything, from all processes; the gradient of the global loss;
            - `local`: what this process's anchors send to this process's rows (open_clip without
              `gather_with_grad`);
            - `none`: nothing (SLIP, CLIP-rocket).

            With one process nothing is gathered, and every choice is `exact`, as in those systems.

    Returns:
        [N, ...] in rank order.

    Raises:
        ValueError: another choice than these.
    """
    check_gradients(gradients)
    rows = _checked(tensor, rows)
    if rows.world_size == 1 or gradients == "exact":
        return gather_with_gradient(tensor, rows)
    gathered = gather(tensor, rows=rows)
    if gradients == "none":
        return gathered
    return torch.cat([gathered[: rows.own.start], tensor, gathered[rows.own.stop :]])


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    total = tensor.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return _all_gather(tensor, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows: Rows = ctx.rows
        padded = torch.cat([_padded(part, rows.longest) for part in torch.split(gradient, list(rows.counts))])
        own = torch.empty_like(padded[: rows.longest])
        dist.reduce_scatter_tensor(own, padded)
        return own[: rows.counts[rows.rank]], None


def _all_gather(tensor: Tensor, rows: Rows) -> Tensor:
    padded = _padded(tensor, rows.longest)
    gathered = padded.new_empty((rows.world_size * rows.longest, *padded.shape[1:]))
    dist.all_gather_into_tensor(gathered, padded)
    if len(set(rows.counts)) == 1:
        return gathered
    parts = torch.split(gathered, rows.longest)
    return torch.cat([part[:count] for part, count in zip(parts, rows.counts, strict=True)])


def _padded(tensor: Tensor, length: int) -> Tensor:
    missing = length - tensor.shape[0]
    if missing == 0:
        return tensor.contiguous()
    return torch.cat([tensor, tensor.new_zeros((missing, *tensor.shape[1:]))])


def _as_bytes(tensor: Tensor) -> Tensor:
    columns = tensor.shape[1:].numel()
    return tensor.reshape(tensor.shape[0], columns).contiguous().view(torch.uint8)


def _checked(tensor: Tensor, rows: Rows | None) -> Rows:
    rows = global_rows(tensor.shape[0]) if rows is None else rows
    if (rows.rank, rows.world_size) != world() or rows.counts[rows.rank] != tensor.shape[0]:
        raise ValueError(
            f"The tensor has {tensor.shape[0]} rows on process {world()}, but the layout given is {rows}. "
            "Pass global_rows(tensor.shape[0]), or leave it out."
        )
    return rows


_side_group: tuple[Any, Any] = (None, None)


def _cpu_group() -> Any:
    """A group that moves CPU tensors: the default one if it can, else a second one of gloo, made once."""
    global _side_group
    default = dist.group.WORLD
    if "cpu" in dist.get_backend_config().lower():
        return default
    if _side_group[0] is not default:
        _side_group = (default, dist.new_group(backend="gloo"))
    return _side_group[1]


__all__: Sequence[str] = [
    "GRADIENTS",
    "Gradients",
    "Rows",
    "anchor_places",
    "gather",
    "gather_keys",
    "gather_with_gradient",
    "global_rows",
    "row_offset",
    "sum_over_processes",
    "world",
]
