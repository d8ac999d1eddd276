"""Masked tokens: the definition, lightly, processes, padding, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import DOUBLE, averaged, close, slices, value_and_gradients
from torch.autograd import gradcheck

from lgrep.losses import masked_token


def made(pictures=4, tokens=6, prototypes=5, unmasked=()):
    """Logits, targets, mask and weights with another number of masked tokens in each picture."""
    mask = torch.zeros(pictures, tokens, dtype=torch.bool)
    for picture in range(pictures):
        if picture not in unmasked:
            mask[picture, : 1 + picture % tokens] = True
    weights = (1 / mask.sum(dim=1).clamp(min=1).double())[:, None].expand(mask.shape)[mask]
    student = torch.randn(len(weights), prototypes, dtype=DOUBLE)
    return student, torch.randn_like(student).softmax(dim=1), mask, weights


def by_hand(student, targets, mask, temperature):
    """The mean over pictures with masked tokens of the mean over these tokens."""
    per_token = -(targets * (student / temperature).softmax(dim=1).log()).sum(dim=1)
    per_picture = per_token.split(mask.sum(dim=1).tolist())
    return torch.stack([part.mean() for part in per_picture if len(part)]).mean()


@pytest.mark.parametrize("unmasked", [(), (1, 3)])
def test_definition(unmasked):
    student, targets, mask, weights = made(unmasked=unmasked)
    got = value_and_gradients(lambda s: masked_token(s, targets, mask, weights, 0.1), student)
    close(got, value_and_gradients(lambda s: by_hand(s, targets, mask, 0.1), student), 1e-11)


@pytest.mark.parametrize("unmasked", [(), (1, 3)])
def test_lightly_divides_by_all_pictures(unmasked):
    """Also by those without a masked token, as DINOv2 does; here they do not count, as in SynCLR."""
    peer = pytest.importorskip("lightly.loss").IBOTPatchLoss(output_dim=5, teacher_temp=1.0).double()
    student, targets, mask, weights = made(unmasked=unmasked)
    grid = mask.view(4, 2, 3)

    def scaled_peer(s):  # the softmax of log-probabilities gives the targets back
        return peer(targets.log(), s, grid) * 4 / (4 - len(unmasked))

    got = value_and_gradients(lambda s: masked_token(s, targets, mask, weights, 0.1), student)
    close(got, value_and_gradients(scaled_peer, student), 1e-7)  # lightly's weights are float32


def test_gradcheck():
    student, targets, mask, weights = made()
    assert gradcheck(lambda s: masked_token(s, targets, mask, weights, 0.3), student.requires_grad_())


def test_padding_with_weight_zero_changes_nothing():
    student, targets, mask, weights = made()
    padding = torch.randn(3, 5, dtype=DOUBLE)
    padded = masked_token(
        torch.cat([student, padding]),
        torch.cat([targets, padding]),
        mask,
        torch.cat([weights, weights.new_zeros(3)]),
        0.1,
    )
    torch.testing.assert_close(padded, masked_token(student, targets, mask, weights, 0.1))


def test_without_masked_tokens_loss_and_gradient_are_zero():
    student = torch.zeros(0, 5, requires_grad=True)
    loss = masked_token(student, torch.zeros(0, 5), torch.zeros(3, 4, dtype=torch.bool), torch.zeros(0), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad.shape == (0, 5)


def shard(rank, student, targets, mask, weights, counts):
    own, tokens = slices(counts)[rank], slices([int(mask[part].sum()) for part in slices(counts)])[rank]
    return value_and_gradients(
        lambda s: masked_token(s, targets[tokens], mask[own], weights[tokens], 0.2), student[tokens]
    )


@pytest.mark.parametrize("unmasked", [(), (0, 1, 2, 5)])  # also a process whose pictures have none
@pytest.mark.parametrize("counts", [(3, 3), (1, 5), (3, 2, 1), (2, 0, 4)], ids=str)
def test_several_processes(run_processes, counts, unmasked):
    student, *others = made(pictures=6, unmasked=unmasked)
    results = run_processes(shard, len(counts), student, *others, counts)
    close(averaged(results), value_and_gradients(lambda s: masked_token(s, *others, 0.2), student), 1e-10)


def test_half_precision_is_computed_in_float32():
    student, targets, mask, weights = made()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = masked_token(student.bfloat16(), targets.float(), mask, weights.half(), 0.1)
    assert got.dtype == torch.float32
    wide = masked_token(student.bfloat16().double(), targets, mask, weights.half().double(), 0.1)
    torch.testing.assert_close(got.double(), wide, rtol=1e-6, atol=0)


MASK = torch.ones(2, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("student", "targets", "mask", "weights", "temperature", "message"),
    [
        (torch.zeros(2, 2, 3), torch.zeros(2, 2, 3), MASK, torch.ones(4), 0.1, r"student must be .* \[M, K\]"),
        (torch.zeros(4, 3), torch.zeros(3, 3), MASK, torch.ones(4), 0.1, r"teacher_targets must be .* \[4, 3\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3), MASK.float(), torch.ones(4), 0.1, r"mask must be Bool \[B, L\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3), MASK, torch.ones(3), 0.1, r"weights must be floating point \[4\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3), MASK, torch.ones(4).long(), 0.1, "weights must be floating point"),
        (torch.zeros(4, 3), torch.zeros(4, 3), MASK.to("meta"), torch.ones(4), 0.1, "on cpu, got .* on meta"),
        (torch.zeros(4, 3), torch.zeros(4, 3), MASK, torch.ones(4), 0.0, "temperature"),
        (torch.zeros(0, 3), torch.zeros(0, 3), MASK[:0], torch.ones(0), 0.1, "no rows"),
    ],
)
def test_wrong_arguments(student, targets, mask, weights, temperature, message):
    with pytest.raises(ValueError, match=message):
        masked_token(student, targets, mask, weights, temperature)
