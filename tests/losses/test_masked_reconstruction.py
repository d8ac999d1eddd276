"""MAE's loss: the definition, processes, precision, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import DOUBLE, averaged, close, few_examples, slices, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lgrep.losses import masked_reconstruction


def made(pictures=4, patches=6, values=5):
    mask = torch.rand(pictures, patches) < 0.6
    mask[0] = True
    return *torch.randn(2, pictures, patches, values, dtype=DOUBLE), mask


def by_hand(prediction, target, mask, normalise):
    errors = []
    for p, t, masked in zip(prediction.flatten(0, 1), target.flatten(0, 1), mask.flatten(), strict=True):
        if masked:
            mean = sum(t) / len(t)
            variance = sum((value - mean) ** 2 for value in t) / (len(t) - 1)
            wanted = (t - mean) / (variance + 1e-6) ** 0.5 if normalise else t
            errors.append(sum((p - wanted) ** 2) / len(t))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("normalise", [True, False])
def test_definition(normalise):
    prediction, target, mask = made()
    got = value_and_gradients(lambda p: masked_reconstruction(p, target, mask, normalise), prediction)
    close(got, value_and_gradients(lambda p: by_hand(p, target, mask, normalise), prediction), 1e-11)


def test_gradcheck_and_no_gradient_for_the_target():
    prediction, target, mask = made()
    assert gradcheck(lambda p: masked_reconstruction(p, target, mask), prediction.requires_grad_())
    assert not masked_reconstruction(prediction.detach(), target.requires_grad_(), mask).requires_grad


@given(seed=st.integers(0, 2**31), contrast=st.floats(0.1, 50), brightness=st.floats(-50, 50))
@few_examples
def test_contrast_and_brightness_of_patches_do_not_matter_when_normalised(seed, contrast, brightness):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, 3, 4, 64, dtype=DOUBLE, generator=generator)
    mask = torch.rand(3, 4, generator=generator) < 0.9
    got = masked_reconstruction(prediction, target * contrast + brightness, mask)
    torch.testing.assert_close(got, masked_reconstruction(prediction, target, mask), rtol=1e-3, atol=1e-3)


def test_visible_patches_do_not_count():
    prediction, target, mask = made()
    spoilt = torch.where(mask[..., None], prediction, torch.nan)
    got = value_and_gradients(lambda p: masked_reconstruction(p, target, mask), spoilt)
    expected = value_and_gradients(lambda p: masked_reconstruction(p, target, mask), prediction)
    close([got[0], got[1][mask]], [expected[0], expected[1][mask]], 1e-12)
    assert (expected[1][~mask] == 0).all()


def test_without_masked_patches_loss_and_gradient_are_zero():
    prediction = torch.randn(2, 3, 4, requires_grad=True)
    loss = masked_reconstruction(prediction, torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert not prediction.grad.any()


def shard(rank, prediction, target, mask, counts):
    own = slices(counts)[rank]
    return value_and_gradients(lambda p: masked_reconstruction(p, target[own], mask[own]), prediction[own])


@pytest.mark.parametrize("counts", [(3, 3), (1, 5), (3, 2, 1), (2, 0, 4)], ids=str)
def test_several_processes(run_processes, counts):
    prediction, target, mask = made(pictures=6)
    results = run_processes(shard, len(counts), prediction, target, mask, counts)
    expected = value_and_gradients(lambda p: masked_reconstruction(p, target, mask), prediction)
    close(averaged(results), expected, 1e-10)


def test_half_precision_is_computed_in_float32():
    prediction, target, mask = made(values=48)
    prediction, target = prediction.bfloat16(), target.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = masked_reconstruction(prediction, target, mask)
    assert got.dtype == torch.float32
    wide = masked_reconstruction(prediction.double(), target.double(), mask)
    torch.testing.assert_close(got.double(), wide, rtol=1e-5, atol=0)


PATCHES, MASK = torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("prediction", "target", "mask", "message"),
    [
        (PATCHES[0], PATCHES[0], MASK, r"prediction must be floating point \[B, L, P\]"),
        (PATCHES, PATCHES[:, :2], MASK, r"target must be floating point \[2, 3, 4\]"),
        (PATCHES, PATCHES.byte(), MASK, "target .* torch.uint8"),
        (PATCHES, PATCHES, MASK.float(), r"mask must be Bool \[2, 3\], got torch.float32"),
        (PATCHES, PATCHES, MASK[:, :2], r"mask must be Bool \[2, 3\]"),
        (PATCHES[..., :1], PATCHES[..., :1], MASK, "P=1"),
        (PATCHES[:0], PATCHES[:0], MASK[:0], "no rows"),
    ],
)
def test_wrong_arguments(prediction, target, mask, message):
    with pytest.raises(ValueError, match=message):
        masked_reconstruction(prediction, target, mask)
