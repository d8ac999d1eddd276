"""The blocked kernels behind `partition.py`, opaque to torch.compile and differentiable once.

Forward passes keep the sums; backward passes compute each block again. Gradients of embeddings leave the
`..._backward` operations before the factor `scale`, so that the gradient of the scale costs no further pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, empty_like
from torch.nn.functional import softplus

from lgrep.losses.blocks import Block, RunningSums, blocks

SOFTPLUS_LINEAR = 50.0  # from here on softplus(x) is x in float64 too
_LIBRARY: Any = torch.library.Library("lgrep", "DEF")  # type: ignore[no-untyped-call]


def _operation(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function an operator of torch; `torch.library.custom_op` would load the compiler on its first call."""

    def register(function: Callable[..., Any]) -> Any:
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        return getattr(torch.ops.lgrep, name).default

    return register


def _shares(gradient: Tensor, log_total: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """(offset, factor): gradient_i * softmax_ij = factor_i * exp(s_ij - offset_i), with no offset when bounded.

    Rows without a gradient get the factor 0 whatever their partition is.
    """
    if bounded:
        factor = gradient * (-log_total).exp()
        return log_total, torch.where(gradient == 0, torch.zeros_like(factor), factor)
    return log_total.masked_fill(log_total == -math.inf, 0.0), gradient


def _weights(
    entries: Tensor,
    second: Block,
    over_columns: tuple[Tensor, Tensor],
    over_rows: tuple[Tensor, Tensor],
    row: slice,
    column: slice,
    bounded: bool,
) -> Tensor:
    """What each similarity of a block passes back from its row's and its column's partition; overwrites `entries`."""
    (row_offset, row_factor), (column_offset, column_factor) = over_columns, over_rows
    weights = second.shaped(entries)
    if bounded:
        torch.add(row_factor[row, None], column_factor[None, column], out=weights)
        return weights.mul_(entries.exp_())
    torch.sub(entries, column_offset[None, column], out=weights)
    weights.exp_().mul_(column_factor[None, column])
    return weights.add_(entries.sub_(row_offset[row, None]).exp_().mul_(row_factor[row, None]))


@_operation("log_partition")
def log_partition_op(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    excluded: list[int],
    ignore_row: Tensor | None,
    ignore_column: Tensor | None,
    bounded: bool,
    size: int,
) -> Tensor:
    """`partition.log_partition` by blocks."""
    sums = RunningSums(len(rows), rows, bounded)
    block = Block(rows, size, excluded, ignore_row, ignore_column)
    for row, column in blocks(len(rows), len(columns), size):
        entries = block.fill(rows[row] * scale, columns, row, column)
        sums.add(row, entries.exp_() if bounded else entries, 1)
    return sums.log()


@_operation("log_partition_backward")
def _backward_op(
    gradient: Tensor,
    log_total: Tensor,
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    excluded: list[int],
    ignore_row: Tensor | None,
    ignore_column: Tensor | None,
    bounded: bool,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of rows and columns, both before the factor `scale`."""
    offset, factor = _shares(gradient, log_total, bounded)
    for_rows, for_columns = torch.zeros_like(rows), torch.zeros_like(columns)
    block = Block(rows, size, excluded, ignore_row, ignore_column)
    for row, column in blocks(len(rows), len(columns), size):
        entries = block.fill(rows[row] * scale, columns, row, column)
        if not bounded:
            entries -= offset[row, None]
        entries.exp_()
        for_rows[row].addmm_(entries, columns[column])
        for_columns[column].addmm_(entries.T, rows[row] * factor[row, None])
    return for_rows.mul_(factor[:, None]), for_columns


@_operation("log_partition_both")
def log_partition_both_op(
    rows: Tensor, columns: Tensor, scale: Tensor, bounded: bool, size: int
) -> tuple[Tensor, Tensor]:
    """`partition.log_partition_both` by blocks."""
    block = Block(rows, size)
    over_columns, over_rows = RunningSums(len(rows), rows, bounded), RunningSums(len(columns), rows, bounded)
    for row, column in blocks(len(rows), len(columns), size):
        entries = block.fill(rows[row] * scale, columns, row, column)
        if bounded:
            entries.exp_()
        over_columns.add(row, entries, 1)
        over_rows.add(column, entries, 0)
    return over_columns.log(), over_rows.log()


@_operation("log_partition_both_backward")
def _both_backward_op(
    row_gradient: Tensor,
    column_gradient: Tensor,
    row_total: Tensor,
    column_total: Tensor,
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    bounded: bool,
    size: int,
) -> tuple[Tensor, Tensor]:
    over_columns = _shares(row_gradient, row_total, bounded)
    over_rows = _shares(column_gradient, column_total, bounded)
    for_rows, for_columns = torch.zeros_like(rows), torch.zeros_like(columns)
    block, second = Block(rows, size), Block(rows, size)
    for row, column in blocks(len(rows), len(columns), size):
        entries = block.fill(rows[row] * scale, columns, row, column)
        weights = _weights(entries, second, over_columns, over_rows, row, column, bounded)
        for_rows[row].addmm_(weights, columns[column])
        for_columns[column].addmm_(weights.T, rows[row])
    return for_rows, for_columns


@_operation("log_partition_self")
def log_partition_self_op(embeddings: Tensor, scale: Tensor, bounded: bool, size: int) -> Tensor:
    """`partition.log_partition_self` by blocks."""
    sums = RunningSums(len(embeddings), embeddings, bounded)
    block = Block(embeddings, size, [0, len(embeddings), 0])
    for row, column in blocks(len(embeddings), len(embeddings), size):
        if row.start > column.start:
            continue
        entries = block.fill(embeddings[row] * scale, embeddings, row, column)
        if bounded:
            entries.exp_()
        sums.add(row, entries, 1)
        if row != column:
            sums.add(column, entries, 0)
    return sums.log()


@_operation("log_partition_self_backward")
def _self_backward_op(
    gradient: Tensor, log_total: Tensor, embeddings: Tensor, scale: Tensor, bounded: bool, size: int
) -> Tensor:
    shares = _shares(gradient, log_total, bounded)
    result = torch.zeros_like(embeddings)
    block, second = Block(embeddings, size, [0, len(embeddings), 0]), Block(embeddings, size)
    for row, column in blocks(len(embeddings), len(embeddings), size):
        if row.start > column.start:
            continue
        entries = block.fill(embeddings[row] * scale, embeddings, row, column)
        weights = _weights(entries, second, shares, shares, row, column, bounded)
        result[row].addmm_(weights, embeddings[column])
        if row != column:
            result[column].addmm_(weights.T, embeddings[row])
    return result


@_operation("softplus_sum")
def softplus_sum_op(rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor, size: int) -> Tensor:
    """The sum over all pairs of softplus(scale * rows_i . columns_j + bias), by blocks."""
    block, total = Block(rows, size), rows.new_zeros(())
    for row, column in blocks(len(rows), len(columns), size):
        total += softplus(
            block.fill(rows[row] * scale, columns, row, column).add_(bias), threshold=SOFTPLUS_LINEAR
        ).sum()
    return total


@_operation("softplus_sum_with_gradients")
def softplus_sum_with_gradients_op(
    rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`softplus_sum` and its gradients of rows and columns (before the factor `scale`) and bias, in one pass.

    All that comes back to a sum is one number, so its gradients need no second look at the blocks.
    """
    block, second, total = Block(rows, size), Block(rows, size), rows.new_zeros(())
    for_rows, for_columns, for_bias = torch.zeros_like(rows), torch.zeros_like(columns), rows.new_zeros(())
    for row, column in blocks(len(rows), len(columns), size):
        entries = block.fill(rows[row] * scale, columns, row, column).add_(bias)
        weights = torch.sigmoid(entries, out=second.shaped(entries))
        total += softplus(entries, threshold=SOFTPLUS_LINEAR).sum()
        for_rows[row].addmm_(weights, columns[column])
        for_columns[column].addmm_(weights.T, rows[row])
        for_bias += weights.sum()
    return total, for_rows, for_columns, for_bias


def _shapes(name: str, fake: Callable[..., Any]) -> None:
    """Tell the compiler the shapes of an operator's results."""
    torch.library.register_fake(f"lgrep::{name}", fake, lib=_LIBRARY)


_shapes("log_partition", lambda rows, *_: rows.new_empty(len(rows)))
_shapes("log_partition_both", lambda rows, columns, *_: (rows.new_empty(len(rows)), rows.new_empty(len(columns))))
_shapes("log_partition_self", lambda embeddings, *_: embeddings.new_empty(len(embeddings)))
_shapes("softplus_sum", lambda rows, *_: rows.new_empty(()))
_shapes("log_partition_backward", lambda g, t, rows, columns, *_: (empty_like(rows), empty_like(columns)))
_shapes("log_partition_both_backward", lambda g, h, t, u, rows, columns, *_: (empty_like(rows), empty_like(columns)))
_shapes("log_partition_self_backward", lambda g, t, embeddings, *_: empty_like(embeddings))
_shapes(
    "softplus_sum_with_gradients",
    lambda rows, columns, *_: (rows.new_empty(()), empty_like(rows), empty_like(columns), rows.new_empty(())),
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    outputs = output if isinstance(output, tuple) else (output,)
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.positions = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.inputs = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.count = len(outputs)
    ctx.save_for_backward(*outputs, *tensors)


def _kept(ctx: Any) -> tuple[tuple[Tensor, ...], list[Any]]:
    """Outputs and inputs of the forward pass."""
    saved, inputs = ctx.saved_tensors, list(ctx.inputs)
    for place, value in zip(ctx.positions, saved[ctx.count :], strict=True):
        inputs[place] = value
    return saved[: ctx.count], inputs


def _for_scale(ctx: Any, place: int, rows: Tensor, for_rows: Tensor) -> Tensor | None:
    """The gradient of the scale, from that of the rows before the factor `scale`."""
    return torch.dot(rows.flatten(), for_rows.flatten()) if ctx.needs_input_grad[place] else None


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (log_total,), inputs = _kept(ctx)
    rows, _, scale = inputs[:3]
    for_rows, for_columns = _backward_op(gradient, log_total, *inputs)
    for_scale = _for_scale(ctx, 2, rows, for_rows)
    return for_rows.mul_(scale), for_columns.mul_(scale), for_scale, None, None, None, None, None


def _both_backward(ctx: Any, row_gradient: Tensor, column_gradient: Tensor) -> tuple[Any, ...]:
    totals, inputs = _kept(ctx)
    rows, _, scale = inputs[:3]
    for_rows, for_columns = _both_backward_op(row_gradient, column_gradient, *totals, *inputs)
    for_scale = _for_scale(ctx, 2, rows, for_rows)
    return for_rows.mul_(scale), for_columns.mul_(scale), for_scale, None, None


def _self_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (log_total,), inputs = _kept(ctx)
    embeddings, scale = inputs[:2]
    result = _self_backward_op(gradient, log_total, *inputs)
    for_scale = _for_scale(ctx, 1, embeddings, result)
    return result.mul_(scale), None if for_scale is None else for_scale / 2, None, None


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    rows, _, scale, _, _ = inputs
    ctx.save_for_backward(*output[1:], rows, scale)
    ctx.set_materialize_grads(False)


def _softplus_backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if gradient is None:
        return (None,) * 5
    for_rows, for_columns, for_bias, rows, scale = ctx.saved_tensors
    for_scale = _for_scale(ctx, 2, rows, for_rows)
    factor = scale * gradient
    for_scale = None if for_scale is None else for_scale * gradient
    return for_rows * factor, for_columns * factor, for_scale, for_bias * gradient, None


torch.library.register_autograd(
    "lgrep::softplus_sum_with_gradients", _softplus_backward, setup_context=_keep_gradients, lib=_LIBRARY
)
torch.library.register_autograd("lgrep::log_partition", _backward, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd("lgrep::log_partition_both", _both_backward, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd("lgrep::log_partition_self", _self_backward, setup_context=_keep, lib=_LIBRARY)
