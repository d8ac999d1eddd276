"""Self-distillation of masked patch tokens (iBOT, SynCLR)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from lgrep.losses.checks import check_positive, check_tensor, counted_rows
from lgrep.losses.gather import sum_over_processes
from lgrep.losses.precision import at_least_float32, full_precision


def masked_token(student: Tensor, teacher_targets: Tensor, mask: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student at masked tokens with the teacher's distributions for them.

    The weighted sum over the masked tokens divided by the number of pictures that have any. With the weight
    1 / (masked tokens of the picture) it is the mean over these pictures of each one's mean over its tokens.
    (DINOv2 divides by all pictures of the mask, also those without a masked token.)

    Args:
        student: [M, K], logits at this process's M masked tokens; M may differ between processes. Rows that
            only pad to a fixed M take weight 0.
        teacher_targets: [M, K], distributions at the same tokens of the unmasked pictures, as from
            `sinkhorn` or a centred softmax; no gradient flows to them.
        mask: Bool [B, L], true at masked tokens.
        weights: [M].
        temperature: of the student, > 0.

    Returns:
        Scalar in float32 (float64 for float64 logits): the loss of the global batch on one process, 0 when it
        has no masked token. On W processes each returns W * (sum of its own tokens) / (masked pictures of all).

    Raises:
        ValueError: wrong shapes, types or devices, no picture on any process, or a temperature that is not
            positive.

    Paper:
        Zhou et al., iBOT, 2022, https://arxiv.org/abs/2111.07832 (equation 2); Tian et al., SynCLR, 2023,
        https://arxiv.org/abs/2312.17742.

    >>> import torch
    >>> mask = torch.tensor([[True, True], [False, True]])
    >>> uniform, weights = torch.full((3, 4), 0.25), torch.tensor([0.5, 0.5, 1.0])
    >>> loss = masked_token(torch.zeros(3, 4), uniform, mask, weights, temperature=0.1)
    >>> bool((loss - torch.log(torch.tensor(4.0))).abs() < 1e-6)
    True
    """
    check_tensor("student", student, "floating point", ("M", "K"))
    check_tensor("teacher_targets", teacher_targets, "floating point", tuple(student.shape), student.device)
    check_tensor("mask", mask, "Bool", ("B", "L"), student.device)
    check_tensor("weights", weights, "floating point", (student.shape[0],), student.device)
    check_positive(temperature=temperature)
    rows = counted_rows("mask", mask.shape[0])
    with full_precision(student):
        logits = at_least_float32(student) / temperature
        per_token = cross_entropy(logits, teacher_targets.detach().to(logits.dtype), reduction="none")
        masked_pictures = sum_over_processes(mask.any(dim=1).sum()).clamp(min=1)
        return rows.world_size * (per_token * weights.detach()).sum() / masked_pictures
