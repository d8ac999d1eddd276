"""VICReg: its definition, lightly, processes, precision, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import COUNTS, DOUBLE, averaged, close, few_examples, slices, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from lgrep.losses import vicreg


def by_hand(z1, z2, weights=(25.0, 25.0, 1.0), target=1.0, eps=1e-4):
    """Equations 1 to 6, with the mean over the views of the variance term, as in the published code."""
    dim = z1.shape[1]
    variance = covariance = 0.0
    for z in (z1, z2):
        table = torch.cov(z.T)
        for i in range(dim):
            variance = variance + (target - (z[:, i].var() + eps).sqrt()).clamp(min=0) / dim / 2
            covariance = covariance + sum(table[i, j] ** 2 for j in range(dim) if j != i) / dim
    return weights[0] * ((z1 - z2) ** 2).mean() + weights[1] * variance + weights[2] * covariance


@pytest.mark.parametrize("scale", [0.3, 3.0])  # below and above the target deviation
def test_definition(scale):
    views = torch.randn(2, 7, 4, dtype=DOUBLE) * scale + 5
    close(value_and_gradients(vicreg, *views), value_and_gradients(by_hand, *views), 1e-11)


def test_other_weights_and_target():
    views = torch.randn(2, 7, 4, dtype=DOUBLE)
    got = value_and_gradients(lambda a, b: vicreg(a, b, 2.0, 3.0, 5.0, std_target=2.0, eps=0.1), *views)
    close(got, value_and_gradients(lambda a, b: by_hand(a, b, (2.0, 3.0, 5.0), 2.0, 0.1), *views), 1e-11)


def test_lightly():
    peer = pytest.importorskip("lightly.loss").VICRegLoss()
    views = torch.randn(2, 9, 5, dtype=DOUBLE)
    close(value_and_gradients(vicreg, *views), value_and_gradients(peer, *views), 1e-10)


def test_gradcheck():
    views = [0.5 * torch.randn(5, 3, dtype=DOUBLE, requires_grad=False) for _ in range(2)]
    leaves = [view.requires_grad_() for view in views]
    assert gradcheck(vicreg, leaves)
    assert gradgradcheck(vicreg, leaves)  # the mean without gradient changes no derivative


@given(seed=st.integers(0, 2**31), shift=st.floats(-100, 100))
@few_examples
def test_order_of_rows_and_common_shift_do_not_matter(seed, shift):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 6, 4, dtype=DOUBLE, generator=generator)
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(vicreg(a[order] + shift, b[order] + shift), vicreg(a, b), rtol=1e-9, atol=1e-9)


def test_a_large_mean_costs_no_digits_in_float32():
    a, b = torch.randn(2, 256, 16) + 1000.0
    torch.testing.assert_close(vicreg(a, b).double(), vicreg(a.double(), b.double()), rtol=1e-5, atol=0)


def shard(rank, a, b, counts):
    own = slices(counts)[rank]
    return value_and_gradients(vicreg, a[own], b[own])


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_several_processes(run_processes, counts):
    views = torch.randn(2, 12, 4, dtype=DOUBLE) + 3
    results = run_processes(shard, len(counts), *views, counts)
    close(averaged(results), value_and_gradients(vicreg, *views), 1e-10)


def test_half_precision_is_computed_in_float32():
    a, b = torch.randn(2, 64, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = vicreg(a, b)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), vicreg(a.double(), b.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("z1", "z2", "message"),
    [
        (torch.zeros(4), torch.zeros(4), r"z1 must be floating point \[n, D\]"),
        (torch.zeros(4, 2), torch.zeros(3, 2), r"z2 must be floating point \[4, 2\]"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "1 rows .* the least is 2"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "no rows"),
    ],
)
def test_wrong_arguments(z1, z2, message):
    with pytest.raises(ValueError, match=message):
        vicreg(z1, z2)
