"""DINO: its definition, lightly, Sinkhorn targets, centers and losses on processes, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import COUNTS, DOUBLE, averaged, close, few_examples, slices, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lgrep.losses import batch_center, dino, sinkhorn


def by_hand(student, targets, temperature, skip):
    """One pair of views and one picture at a time."""
    terms = []
    for t, target in enumerate(targets):
        for s, view in enumerate(student):
            if skip and s == t:
                continue
            for q, logits in zip(target, view, strict=True):
                terms.append(-(q * (logits / temperature).softmax(dim=0).log()).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("views", "teacher_views"), [(2, 2), (5, 2), (3, 1), (3, 3)])
def test_definition_with_centers(views, teacher_views, skip):
    student, teacher, center = torch.randn(views, 4, 6), torch.randn(teacher_views, 4, 6), torch.randn(6)
    student, teacher, center = student.double(), teacher.double(), center.double()
    targets = ((teacher - center) / 0.07).softmax(dim=2)
    got = value_and_gradients(lambda s: dino(s, teacher, center, 0.2, 0.07, skip), student)
    close(got, value_and_gradients(lambda s: by_hand(s, targets, 0.2, skip), student), 1e-11)


def test_without_a_center_targets_are_balanced_over_all_teacher_views():
    student, teacher = torch.randn(4, 5, 6, dtype=DOUBLE), torch.randn(2, 5, 6, dtype=DOUBLE)
    targets = sinkhorn(torch.cat([*teacher]), epsilon=0.3).chunk(2)
    got = value_and_gradients(lambda s: dino(s, teacher, None, 0.1, 0.3), student)
    close(got, value_and_gradients(lambda s: by_hand(s, targets, 0.1, True), student), 1e-11)


@pytest.mark.parametrize("views", [2, 4])
def test_lightly(views):
    peer = pytest.importorskip("lightly.loss").DINOLoss(output_dim=6, student_temp=0.1).double()
    peer.center.copy_(torch.randn(1, 1, 6))
    center = peer.center.flatten().clone()
    student, teacher = torch.randn(views, 5, 6, dtype=DOUBLE), torch.randn(2, 5, 6, dtype=DOUBLE)
    got = value_and_gradients(lambda s: dino(s, teacher, center, 0.1, 0.04), student)
    expected = value_and_gradients(lambda s: peer(list(teacher), list(s), teacher_temp=0.04), student)
    close(got, expected, 1e-7)  # lightly keeps the temperature in float32
    running = 0.9 * center + 0.1 * batch_center(teacher)
    torch.testing.assert_close(running, peer.center.flatten(), rtol=1e-7, atol=1e-7)


def test_lists_of_views_are_as_good_as_one_tensor():
    student, teacher = torch.randn(3, 4, 6), torch.randn(2, 4, 6)
    for center in (None, torch.zeros(6)):
        expected = dino(student, teacher, center, 0.1, 0.04)
        assert torch.equal(dino(list(student), tuple(teacher), center, 0.1, 0.04), expected)


@pytest.mark.parametrize("center", [None, torch.zeros(4, dtype=DOUBLE)])
def test_gradcheck_and_no_gradient_for_the_teacher(center):
    student = torch.randn(3, 3, 4, dtype=DOUBLE, requires_grad=True)
    teacher = torch.randn(2, 3, 4, dtype=DOUBLE)
    assert gradcheck(lambda s: dino(s, teacher, center, 0.5, 0.2), student)
    assert not dino(student.detach(), teacher.requires_grad_(), center, 0.5, 0.2).requires_grad


@given(seed=st.integers(0, 2**31), shift=st.floats(-20, 20), with_center=st.booleans())
@few_examples
def test_order_of_pictures_and_shifts_of_logits_do_not_matter(seed, shift, with_center):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, 4, dtype=DOUBLE, generator=generator)
    center = torch.randn(4, dtype=DOUBLE, generator=generator) if with_center else None
    order = torch.randperm(5, generator=generator)
    got = dino(student[:, order] + shift, teacher[:, order] + shift, center, 0.1, 0.2)
    torch.testing.assert_close(got, dino(student, teacher, center, 0.1, 0.2), rtol=1e-8, atol=1e-10)


def shard(rank, student, teacher, center, counts):
    own = slices(counts)[rank]
    loss = value_and_gradients(lambda s: dino(s, teacher[:, own], center, 0.2, 0.1), student[:, own])
    return loss, batch_center(teacher[:, own])


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("with_center", [True, False])
def test_several_processes(run_processes, counts, with_center):
    student, teacher = torch.randn(3, 12, 5, dtype=DOUBLE), torch.randn(2, 12, 5, dtype=DOUBLE)
    center = torch.randn(5, dtype=DOUBLE) if with_center else None
    losses, centers = zip(*run_processes(shard, len(counts), student, teacher, center, counts), strict=True)
    expected = value_and_gradients(lambda s: dino(s, teacher, center, 0.2, 0.1), student)
    close(averaged(losses, dim=1), expected, 1e-10)
    for each in centers:
        torch.testing.assert_close(each, teacher.mean(dim=(0, 1)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_center", [True, False])
def test_half_precision_is_computed_in_float32(with_center):
    student, teacher = torch.randn(2, 2, 16, 8).bfloat16()
    center = torch.randn(8) if with_center else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = dino(student, teacher, center, 0.1, 0.04)
    assert got.dtype == torch.float32
    wide = dino(student.double(), teacher.double(), center, 0.1, 0.04)
    torch.testing.assert_close(got.double(), wide, rtol=1e-5, atol=0)


VIEWS = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("student", "teacher", "center", "temperatures", "message"),
    [
        (VIEWS[:1], VIEWS[:1], None, (0.1, 0.1), "V=1, T=1, skip_same_view=True"),
        (VIEWS, torch.zeros(3, 4, 3), None, (0.1, 0.1), "V=2, T=3"),
        (VIEWS, [], None, (0.1, 0.1), "T=0"),
        (VIEWS[0], VIEWS[1], None, (0.1, 0.1), r"student\[0\] must be floating point \[n, K\]"),
        (VIEWS, VIEWS[:, :3], None, (0.1, 0.1), r"teacher\[0\] must be floating point \[4, 3\]"),
        ([VIEWS[0], VIEWS[1, :2]], VIEWS, None, (0.1, 0.1), r"student\[1\] must be"),
        (VIEWS, VIEWS, torch.zeros(1, 3), (0.1, 0.1), r"center must be floating point \[3\]"),
        (VIEWS, VIEWS, None, (0.0, 0.1), "student_temperature"),
        (VIEWS, VIEWS, None, (0.1, 0.0), "teacher_temperature"),
        (VIEWS[:, :0], VIEWS[:, :0], None, (0.1, 0.1), "no rows"),
    ],
)
def test_wrong_arguments(student, teacher, center, temperatures, message):
    with pytest.raises(ValueError, match=message):
        dino(student, teacher, center, *temperatures)
