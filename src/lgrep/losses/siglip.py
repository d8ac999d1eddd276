"""Image-text contrast by one binary decision per pair (SigLIP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lgrep.losses.blocks import block_rows, whole_matrix
from lgrep.losses.checks import check_embeddings, check_scale, counted_rows
from lgrep.losses.gather import Gradients, gather_keys
from lgrep.losses.kernels import SOFTPLUS_LINEAR, softplus_sum_op, softplus_sum_with_gradients_op
from lgrep.losses.precision import full_precision, unit_rows

DENSE_BYTES = 8 * 2**20  # as in `blocks`; without a softmax the whole matrix stays the faster one for longer
CPU_FACTOR = 2  # one pass over a block does more work than in `partition`, which larger blocks suit better (measured)


def siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    gather_gradients: Gradients = "exact",
    block: int | None = None,
) -> Tensor:
    """Decides for every pair of a picture and a text whether they belong together.

    With logits l_ij = s cos(image_i, text_j) + b, the loss is::

        1/N  sum_ij  log(1 + exp(-z_ij l_ij)),    z_ii = 1, z_ij = -1 otherwise

    Args:
        image: [n, D], unnormalised, this process's rows; n may differ between processes.
        text: [n, D], unnormalised; row i belongs to picture i.
        logit_scale: s, already exponentiated; a 0-dim tensor gets a gradient.
        logit_bias: b; a 0-dim tensor gets a gradient.
        gather_gradients: what flows back to texts as candidates of pictures (`gather_keys`); not `none`: each pair
            is seen from its picture alone, so texts would not learn.
        block: side of the blocks that the logits are computed in; None chooses, 0 the whole matrix.

    Returns:
        Scalar in float32 (float64 for float64 embeddings), the loss of the global batch on one process. On W
        processes each returns W * (sum over its own pictures and all texts) / N.

    Raises:
        ValueError: wrong shapes or types, an empty global batch, or `gather_gradients="none"`.

    Paper:
        Zhai et al., SigLIP, 2023, https://arxiv.org/abs/2303.15343, equation 1.

    >>> pair = torch.eye(2)
    >>> loss = siglip(pair, pair, 1.0, 0.0)  # two pairs at 1, two others at 0
    >>> one, zero = torch.tensor(1.0), torch.tensor(0.0)
    >>> bool((loss - softplus(-one) - softplus(zero)).abs() < 1e-6)
    True
    """
    check_embeddings(image=image, text=text)
    check_scale(logit_scale)
    if gather_gradients == "none":
        raise ValueError(
            "siglip with gather_gradients='none' would leave texts without a gradient; use 'exact' or 'local'."
        )
    rows = counted_rows("image and text", image.shape[0])
    with full_precision(image):
        image, text = unit_rows(image), unit_rows(text)
        texts = gather_keys(text, rows, gather_gradients)
        scale, bias = (torch.as_tensor(value).to(image) for value in (logit_scale, logit_bias))
        if whole_matrix(image, texts, block, DENSE_BYTES):
            total = softplus(scale * image @ texts.T + bias, threshold=SOFTPLUS_LINEAR).sum()
        else:
            parts = (image, texts, scale, bias)
            size = block or block_rows(image) * (CPU_FACTOR if image.device.type == "cpu" else 1)
            learns = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
            total = softplus_sum_with_gradients_op(*parts, size)[0] if learns else softplus_sum_op(*parts, size)
        # softplus(-l) = softplus(l) - l turns the pairs that belong together into positives
        own = scale * (image * texts[rows.own]).sum() + bias * len(image)
        return rows.world_size * (total - own) / rows.total
