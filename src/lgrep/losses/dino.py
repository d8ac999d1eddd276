"""Self-distillation between views (DINO, DINOv2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lgrep.losses.checks import check_positive, check_tensor, counted_rows
from lgrep.losses.gather import sum_over_processes
from lgrep.losses.precision import at_least_float32, full_precision
from lgrep.losses.sinkhorn import sinkhorn


def dino(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
    skip_same_view: bool = True,
) -> Tensor:
    """Cross-entropy of each student view with the teacher's distribution for each other view.

    The first T student views are the teacher's views, in the same order; further ones (local crops) have no
    counterpart. The loss is the mean over the pairs of views and over the pictures.

    Args:
        student: V views, each [n, K] logits of this process's pictures; n may differ between processes.
        teacher: T <= V views, each [n, K] logits; no gradient flows to them.
        center: [K], subtracted from the teacher's logits before their softmax (equation 4; a running mean of
            `batch_center`). None: Sinkhorn targets over all teacher views of the global batch (DINOv2).
        student_temperature: > 0.
        teacher_temperature: > 0; epsilon of `sinkhorn` when there is no center.
        skip_same_view: leave out the T pairs of a view with itself.

    Returns:
        Scalar in float32 (float64 for float64 logits): the mean over the global batch on one process. On W
        processes each returns W * (sum of its own pictures) / (pictures of all).

    Raises:
        ValueError: wrong shapes, types or devices, no pair of views, an empty global batch, or a temperature
            that is not positive.

    Paper:
        Caron et al., DINO, 2021, https://arxiv.org/abs/2104.14294 (equations 1 to 4); Oquab et al., DINOv2,
        2023, https://arxiv.org/abs/2304.07193, for the Sinkhorn targets.

    >>> logits = torch.zeros(2, 3, 4)  # two views of three pictures, four prototypes
    >>> loss = dino(logits, logits, torch.zeros(4), student_temperature=0.1, teacher_temperature=0.04)
    >>> bool((loss - torch.log(torch.tensor(4.0))).abs() < 1e-6)
    True
    """
    check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    _check_views(list(student), list(teacher), skip_same_view)
    pictures, prototypes = student[0].shape
    if center is not None:
        check_tensor("center", center, "floating point", (prototypes,), student[0].device)
    rows = counted_rows("student", pictures)
    num_pairs = len(student) * len(teacher) - skip_same_view * len(teacher)
    with full_precision(student[0]):
        targets = _targets(torch.stack(list(teacher)).detach(), center, teacher_temperature)
        total = student[0].new_zeros((), dtype=targets.dtype)
        for number, view in enumerate(student):
            paired = [target for t, target in enumerate(targets) if not (skip_same_view and t == number)]
            if paired:
                logits = at_least_float32(view) / student_temperature
                # cross-entropy is linear in its target: one pass serves all teacher views
                total = total + cross_entropy(logits, torch.stack(paired).sum(dim=0).to(logits.dtype), reduction="sum")
        return rows.world_size * total / (num_pairs * rows.total)


@torch.no_grad()
def batch_center(teacher: Tensor | Sequence[Tensor]) -> Tensor:
    """The mean of the teacher's logits over views and the global batch, for the running center.

    Args:
        teacher: T views, each [n, K], or [n, K] itself; n may differ between processes.

    Returns:
        [K] in float32 (float64 for float64 logits), the same on all processes.

    Raises:
        ValueError: wrong shapes or types, or an empty global batch.

    >>> batch_center(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    tensor([2., 2.])
    """
    logits = teacher if isinstance(teacher, Tensor) else torch.stack(list(teacher))
    logits = logits.reshape(-1, logits.shape[-1])
    check_tensor("teacher", logits, "floating point", ("n", "K"))
    rows = counted_rows("teacher", logits.shape[0])
    with full_precision(logits):
        return sum_over_processes(at_least_float32(logits).sum(dim=0)) / rows.total


def _targets(teacher: Tensor, center: Tensor | None, temperature: float) -> Tensor:
    """Distributions [T, n, K] of the teacher."""
    if center is None:
        return sinkhorn(teacher.flatten(0, 1), epsilon=temperature).view(teacher.shape)
    return ((at_least_float32(teacher) - center.detach()) / temperature).softmax(dim=-1)


def _check_views(student: list[Tensor], teacher: list[Tensor], skip_same_view: bool) -> None:
    if not 1 <= len(teacher) <= len(student) or (skip_same_view and len(student) == 1):
        raise ValueError(
            f"dino needs V student and T <= V teacher views, and V > 1 to skip pairs of a view with itself, "
            f"got V={len(student)}, T={len(teacher)}, skip_same_view={skip_same_view}."
        )
    check_tensor("student[0]", student[0], "floating point", ("n", "K"))
    for name, views in (("student", student), ("teacher", teacher)):
        for number, view in enumerate(views):
            check_tensor(f"{name}[{number}]", view, "floating point", tuple(student[0].shape), student[0].device)
