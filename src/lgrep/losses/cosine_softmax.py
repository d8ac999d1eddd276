"""Logits of a cosine classifier (t-ReX)."""

from __future__ import annotations

from torch import Tensor

from lgrep.losses.checks import check_positive, check_tensor
from lgrep.losses.precision import at_least_float32, full_precision, unit_rows


def cosine_softmax_logits(embedding: Tensor, weight: Tensor, temperature: float | None = 0.1) -> Tensor:
    """Cosines between embeddings and class weights, over a temperature; for a cross-entropy.

    Args:
        embedding: [n, D], unnormalised.
        weight: [C, D], one row per class, learned or from `ClassMeanMemory`; a zero row gives logit 0.
        temperature: > 0. None: the plain inner product, without norms.

    Returns:
        [n, C] in float32 (float64 for float64 inputs).

    Raises:
        ValueError: wrong shapes, types or devices, or a temperature that is not positive.

    Paper:
        Sariyildiz et al., t-ReX, 2023, https://arxiv.org/abs/2206.15369 (equations 1 and 2).

    >>> import torch
    >>> cosine_softmax_logits(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), temperature=0.5)
    tensor([[2., 0.]])
    >>> cosine_softmax_logits(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), temperature=None)
    tensor([[3., 0.]])
    """
    check_tensor("embedding", embedding, "floating point", ("n", "D"))
    check_tensor("weight", weight, "floating point", ("C", embedding.shape[1]), embedding.device)
    with full_precision(embedding):
        rows, classes = at_least_float32(embedding), at_least_float32(weight)
        if temperature is None:
            return rows @ classes.T.to(rows.dtype)
        check_positive(temperature=temperature)
        return unit_rows(rows) @ unit_rows(classes).T.to(rows.dtype) / temperature
