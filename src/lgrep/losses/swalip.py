"""Swapped assignments between pictures and texts, each the prototypes of the other (SwALIP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lgrep.losses.blocks import block_rows
from lgrep.losses.checks import check_embeddings, check_scale, counted_rows
from lgrep.losses.gather import Gradients, gather_keys
from lgrep.losses.partition import log_partition
from lgrep.losses.precision import full_precision, unit_rows
from lgrep.losses.sinkhorn import sinkhorn_scalings

VIEWS = 2  # swapping both augmentation indices is defined for two


def swalip(
    images: Sequence[Tensor],
    texts: Sequence[Tensor],
    logit_scale: float | Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
    *,
    gather_gradients: Gradients = "exact",
    block: int | None = None,
) -> Tensor:
    """Cross-entropy of scores with balanced assignments of the scores between the other augmentations.

    Scores of picture view a and text view b are cosines; the embeddings of the other modality in the global batch
    are the prototypes. Targets are `sinkhorn` of the scores of views 1 - a and 1 - b, constants. The mean over
    the four pairs of views and both modalities. Neither scores nor targets are kept: targets are made by block
    from the two scalings of their plan.

    Args:
        images: two views [n, D], unnormalised, this process's rows; n may differ between processes.
        texts: two views [n, D].
        logit_scale: multiplier of the cosines in the softmax, already exponentiated; a 0-dim tensor gets a gradient.
        epsilon: of `sinkhorn`.
        iterations: of `sinkhorn`.
        gather_gradients: what flows back to rows as prototypes of others (`gather_keys`); `none` as published.
        block: side of the blocks of the softmax; None chooses, 0 the whole matrix.

    Returns:
        Scalar in float32 (float64 for float64 embeddings), the mean over the global batch on one process. On W
        processes each returns W * (sum of its own rows) / N.

    Raises:
        ValueError: wrong shapes or types, another number of views than two, or an empty global batch.

    Paper:
        Fini et al., Improved baselines for vision-language pre-training, 2023, https://arxiv.org/abs/2305.08675;
        the swap is that of SwAV, https://arxiv.org/abs/2006.09882, equation 2.

    >>> pair = torch.eye(4)
    >>> bool(swalip([pair, pair], [pair, pair], 100.0, epsilon=0.01) < 1e-3)
    True
    """
    if len(images) != VIEWS or len(texts) != VIEWS:
        raise ValueError(f"images and texts must be two views each; got {len(images)} and {len(texts)}.")
    check_embeddings(images_0=images[0], images_1=images[1], texts_0=texts[0], texts_1=texts[1])
    check_scale(logit_scale)
    rows = counted_rows("images and texts", images[0].shape[0])
    with full_precision(images[0]):
        local = torch.stack([unit_rows(view) for view in (*images, *texts)], dim=1)  # [n, 4, D]
        keys = gather_keys(local, rows, gather_gradients)
        image, text = local[:, :VIEWS].unbind(1), local[:, VIEWS:].unbind(1)
        image_keys, text_keys = keys[:, :VIEWS].unbind(1), keys[:, VIEWS:].unbind(1)
        total = local.new_zeros(())
        for queries, prototypes in ((image, text_keys), (text, image_keys)):
            for a in range(VIEWS):
                for b in range(VIEWS):
                    partition = log_partition(queries[a], prototypes[b], logit_scale, block=block)
                    attraction = _assigned(
                        queries[1 - a], prototypes[1 - b], queries[a], prototypes[b], epsilon, iterations
                    )
                    total = total + partition.sum() - logit_scale * attraction
        return rows.world_size * total / (2 * VIEWS**2 * rows.total)


def _assigned(
    target_rows: Tensor, target_columns: Tensor, rows: Tensor, columns: Tensor, epsilon: float, iterations: int
) -> Tensor:
    """The sum over all pairs of plan_ij * (rows_i . columns_j), plan being a constant that is never whole."""
    with torch.no_grad():
        size = block_rows(rows)
        scalings = sinkhorn_scalings(lambda: _scores(target_rows, target_columns, size), epsilon, iterations)
        for_rows, for_columns = torch.zeros_like(rows), torch.zeros_like(columns)
        for number, scores in enumerate(_scores(target_rows, target_columns, size)):
            part = slice(number * size, number * size + len(scores))
            plan = scalings.plan(scores, rows=part)
            for_rows[part] = plan @ columns
            for_columns.addmm_(plan.T, rows[part])
    # the value is in the first term; the second is zero and carries the gradient of the columns
    return (rows * for_rows).sum() + ((columns - columns.detach()) * for_columns).sum()


def _scores(rows: Tensor, columns: Tensor, size: int) -> Iterator[Tensor]:
    """Row blocks of the cosines, one of no rows for a process without samples."""
    for start in range(0, max(1, len(rows)), size):
        yield rows[start : start + size] @ columns.T
