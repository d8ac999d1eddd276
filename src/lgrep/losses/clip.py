"""Image-text contrast with one text per picture (CLIP) and its weak/strong extension (CLIP-rocket)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lgrep.losses.checks import check_embeddings, check_scale, check_smoothing, counted_rows
from lgrep.losses.gather import Gradients, check_gradients, gather_keys
from lgrep.losses.partition import log_partition, log_partition_both
from lgrep.losses.precision import full_precision, unit_rows


def clip_contrastive(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    label_smoothing: float = 0.0,
    *,
    gather_gradients: Gradients = "exact",
    block: int | None = None,
) -> Tensor:
    """Finds each picture's text among all texts and each text's picture among all pictures; the mean of both.

    Args:
        image: [n, D], unnormalised, this process's rows; n may differ between processes.
        text: [n, D], unnormalised; row i belongs to picture i.
        logit_scale: multiplier of the cosines, already exponentiated; a 0-dim tensor gets a gradient.
        label_smoothing: share of the target spread evenly over all N candidates, the right one included.
        gather_gradients: what flows back to rows as candidates of others (`gather_keys`); `none` as published
            by SLIP and CLIP-rocket.
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar in float32 (float64 for float64 embeddings): the mean over the global batch on one process. On W
        processes each returns W * (sum of its own rows) / N, so the mean over processes is the loss of the
        global batch and the gradient averaged by DDP is its exact gradient.

    Raises:
        ValueError: wrong shapes or types, an empty global batch, or smoothing outside [0, 1).

    Paper:
        Radford et al., CLIP, 2021, https://arxiv.org/abs/2103.00020, figure 3.

    >>> pair = torch.eye(3)
    >>> loss = clip_contrastive(pair, pair, 1.0)
    >>> bool((loss - torch.log(1 + 2 / torch.tensor(1.0).exp())).abs() < 1e-6)
    True
    """
    check_embeddings(image=image, text=text)
    check_scale(logit_scale)
    check_smoothing(label_smoothing)
    check_gradients(gather_gradients)
    rows = counted_rows("image and text", image.shape[0])
    with full_precision(image):
        image, text = unit_rows(image), unit_rows(text)
        if rows.world_size == 1:
            images, texts = image, text
            over_texts, over_images = log_partition_both(image, text, logit_scale, block)
            matched = [(image * text).sum()] * 2
        else:
            images, texts = gather_keys(torch.stack([image, text], dim=1), rows, gather_gradients).unbind(1)
            over_texts = log_partition(image, texts, logit_scale, block=block)
            over_images = log_partition(text, images, logit_scale, block=block)
            matched = [(image * texts[rows.own]).sum(), (text * images[rows.own]).sum()]
        losses = []
        for queries, partition, keys, own in (
            (image, over_texts, texts, matched[0]),
            (text, over_images, images, matched[1]),
        ):
            attraction = (1 - label_smoothing) * own
            if label_smoothing:
                attraction = attraction + label_smoothing * (queries @ keys.mean(dim=0)).sum()
            losses.append(rows.world_size * (partition.sum() - logit_scale * attraction) / rows.total)
        return (losses[0] + losses[1]) / 2


def clip_rocket(
    image_weak: Tensor,
    text_weak: Tensor,
    images_strong: Sequence[Tensor],
    texts_strong: Sequence[Tensor],
    logit_scale: float | Tensor,
    strong_logit_scale: float | Tensor,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    *,
    gather_gradients: Gradients = "exact",
    block: int | None = None,
) -> Tensor:
    """CLIP on the weak pair and on every combination of a strong picture view and a strong text view.

    With A strong views, L = (L_weak + A * mean over the A^2 strong pairs) / (1 + A). Smoothing acts on strong pairs only.

    Args:
        image_weak: [n, D], unnormalised.
        text_weak: [n, D], unnormalised.
        images_strong: A times [n, E], of the strong projector; may be empty.
        texts_strong: A times [n, E].
        logit_scale: multiplier of the weak pair's cosines, already exponentiated.
        strong_logit_scale: multiplier of the strong pairs' cosines.
        label_smoothing: as in `clip_contrastive`.
        reduction: `sum` is twice the `mean`, as published.
        gather_gradients: what flows back to rows as candidates of others (`gather_keys`).
        block: side of the blocks that the similarities are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar; on W processes as in `clip_contrastive`.

    Raises:
        ValueError: wrong shapes or types, unequal numbers of strong views, or an unknown reduction.

    Paper:
        Fini et al., Improved baselines for vision-language pre-training, 2023, https://arxiv.org/abs/2305.08675.

    >>> pair = torch.eye(3)
    >>> bool(clip_rocket(pair, pair, [pair], [pair], 5.0, 5.0) == clip_contrastive(pair, pair, 5.0))
    True
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
    if len(images_strong) != len(texts_strong):
        raise ValueError(
            "images_strong and texts_strong must be equally many views; "
            f"got {len(images_strong)} and {len(texts_strong)}."
        )
    weak = clip_contrastive(image_weak, text_weak, logit_scale, gather_gradients=gather_gradients, block=block)
    strong = [
        clip_contrastive(
            image, text, strong_logit_scale, label_smoothing, gather_gradients=gather_gradients, block=block
        )
        for image in images_strong
        for text in texts_strong
    ]
    views = len(images_strong)
    total = weak if not strong else (weak + views * torch.stack(strong).mean()) / (1 + views)
    return 2 * total if reduction == "sum" else total
