"""Contrast of queries with the keys of another network or memory (MoCo v3, NNCLR)."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrep.losses.checks import check_embeddings, check_positive, counted_rows
from lgrep.losses.gather import gather
from lgrep.losses.partition import log_partition
from lgrep.losses.precision import full_precision, unit_rows


def moco_v3(
    query_a: Tensor,
    query_b: Tensor,
    key_a: Tensor,
    key_b: Tensor,
    temperature: float = 0.2,
    *,
    block: int | None = None,
) -> Tensor:
    """Each view's query looks for the other view's key among the keys of the global batch.

    The sum of both directions, each multiplied by 2 * temperature as published.

    Args:
        query_a: [n, D], unnormalised predictions of view a, this process's rows; n may differ between processes.
        query_b: [n, D], of view b.
        key_a: [n, D], the momentum encoder's projections of view a; constants.
        key_b: [n, D], of view b.
        temperature: > 0.
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar in float32 (float64 for float64 embeddings), the loss of the global batch on one process. On W
        processes each returns W * (sum of its own rows) / N.

    Raises:
        ValueError: wrong shapes or types, an empty global batch or a temperature that is not positive.

    Paper:
        Chen et al., MoCo v3, 2021, https://arxiv.org/abs/2104.02057, algorithm 1.

    >>> view = torch.eye(3)
    >>> loss = moco_v3(view, view, view, view, temperature=1.0)
    >>> bool((loss - 4 * torch.log(1 + 2 / torch.tensor(1.0).exp())).abs() < 1e-5)
    True
    """
    check_embeddings(query_a=query_a, query_b=query_b, key_a=key_a, key_b=key_b)
    return 2 * temperature * _both(query_a, query_b, key_a, key_b, temperature, block)


def nnclr(
    prediction_a: Tensor,
    prediction_b: Tensor,
    neighbour_a: Tensor,
    neighbour_b: Tensor,
    temperature: float = 0.1,
    *,
    block: int | None = None,
) -> Tensor:
    """Each view's prediction looks for the nearest neighbour of the other view among N candidates; the mean of both.

    Args:
        prediction_a: [n, D], unnormalised predictions of view a, this process's rows; n may differ between processes.
        prediction_b: [n, D], of view b.
        neighbour_a: [n, D], what the memory holds nearest to the projection of view a; constants.
        neighbour_b: [n, D], nearest to view b.
        temperature: > 0.
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar; on W processes as in `moco_v3`.

    Raises:
        ValueError: wrong shapes or types, an empty global batch or a temperature that is not positive.

    Paper:
        Dwibedi et al., NNCLR, 2021, https://arxiv.org/abs/2104.14548, equation 4 in the symmetric form of its code;
        predictions are the rows, as in El Banani et al., 2023, https://arxiv.org/abs/2302.12248.

    >>> view = torch.eye(3)
    >>> loss = nnclr(view, view, view, view, temperature=1.0)
    >>> bool((loss - torch.log(1 + 2 / torch.tensor(1.0).exp())).abs() < 1e-6)
    True
    """
    check_embeddings(
        prediction_a=prediction_a, prediction_b=prediction_b, neighbour_a=neighbour_a, neighbour_b=neighbour_b
    )
    return _both(prediction_a, prediction_b, neighbour_a, neighbour_b, temperature, block) / 2


def _both(
    query_a: Tensor, query_b: Tensor, key_a: Tensor, key_b: Tensor, temperature: float, block: int | None
) -> Tensor:
    """Cross-entropy of a's queries over b's keys plus that of b's queries over a's keys; keys are constants."""
    check_positive(temperature=temperature)
    rows = counted_rows("queries and keys", query_a.shape[0])
    with full_precision(query_a):
        units = [unit_rows(query_a), unit_rows(query_b)]
        keys = torch.stack([unit_rows(key_a.detach()), unit_rows(key_b.detach())], dim=1).to(units[0])
        keys_a, keys_b = gather(keys, rows=rows).unbind(1)
        total = units[0].new_zeros(())
        for unit, all_keys in zip(units, (keys_b, keys_a), strict=True):
            partition = log_partition(unit, all_keys, 1 / temperature, block=block)
            total = total + partition.sum() - (unit * all_keys[rows.own]).sum() / temperature
        return rows.world_size * total / rows.total
