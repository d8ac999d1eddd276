"""Barlow Twins: published BarLIP values, lightly, exact and published gradients on processes, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import COUNTS, DOUBLE, averaged, close, golden, slices, value_and_gradients
from torch.autograd import gradcheck
from torch.nn.functional import batch_norm

from lgrep.losses import barlow_twins

VIEWS = ["v_image", "v_text", "v_image_local_0", "v_image_local_1", "v_text_local_0", "v_text_local_1"]


def test_barlip_golden(goldens):
    case = goldens["barlip"]["augs2"]
    weight, scale = float(case["in"]["off_diagonal_weight"]), float(case["in"]["scale"])

    def loss(image, text, image_0, image_1, text_0, text_1):
        pairs = [(image, text), *[(i, t) for i in (image_0, image_1) for t in (text_0, text_1)]]
        return torch.stack([barlow_twins(i, t, weight, scale) for i, t in pairs]).mean()

    got = value_and_gradients(loss, *golden(case, "in", *VIEWS))
    close(got, golden(case, "out", "barlip_loss", *[f"grad_{name}" for name in VIEWS]), 1e-6)


def by_hand(z1, z2, weight=5e-3, scale=0.025):
    total = 0.0
    for i in range(z1.shape[1]):
        for j in range(z2.shape[1]):
            correlation = (z1[:, i] * z2[:, j]).mean()
            total = total + ((correlation - 1) ** 2 if i == j else weight * correlation**2)
    return scale * total


def test_definition():
    views = torch.randn(2, 6, 5, dtype=DOUBLE)
    close(value_and_gradients(barlow_twins, *views), value_and_gradients(by_hand, *views), 1e-12)


def test_lightly_with_its_normalisation_and_without_our_scale():
    """lightly standardises inside and has no factor; here the head's BatchNorm does, and `scale` is 0.025."""
    peer = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=0.01)
    views = torch.randn(2, 9, 4, dtype=DOUBLE) * 3 + 1

    def ours(a, b):
        return barlow_twins(*[batch_norm(z, None, None, training=True) for z in (a, b)], 0.01, scale=1.0)

    close(value_and_gradients(ours, *views), value_and_gradients(peer, *views), 1e-10)


def test_gradcheck():
    views = [torch.randn(5, 3, dtype=DOUBLE, requires_grad=True) for _ in range(2)]
    assert gradcheck(barlow_twins, views)


def test_order_of_rows_does_not_matter_and_views_may_swap():
    a, b = torch.randn(2, 8, 5, dtype=DOUBLE)
    order = torch.randperm(8)
    torch.testing.assert_close(barlow_twins(a[order], b[order]), barlow_twins(a, b))
    torch.testing.assert_close(barlow_twins(b, a), barlow_twins(a, b))


def shard(rank, a, b, counts, gradient):
    own = slices(counts)[rank]
    return value_and_gradients(lambda x, y: barlow_twins(x, y, gradient=gradient), a[own], b[own])


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("gradient", ["exact", "local"])
def test_several_processes(run_processes, counts, gradient):
    """`local` is what the published code gives: 1/W of the exact gradient after DDP's average."""
    views = torch.randn(2, 12, 4, dtype=DOUBLE)
    value, *gradients = value_and_gradients(barlow_twins, *views)
    factor = 1.0 if gradient == "exact" else 1 / len(counts)
    results = run_processes(shard, len(counts), *views, counts, gradient)
    close(averaged(results), [value, *[factor * each for each in gradients]], 1e-10)
    assert all(torch.equal(result[0], results[0][0]) for result in results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b = torch.randn(2, 64, 16).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = barlow_twins(a, b)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), barlow_twins(a.double(), b.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("z1", "z2", "gradient", "message"),
    [
        (torch.zeros(4, 2, 2), torch.zeros(4, 2, 2), "exact", r"z1 must be floating point \[n, D\]"),
        (torch.zeros(4, 2), torch.zeros(4, 3), "exact", r"z2 must be floating point \[4, 2\]"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "exact", "no rows"),
        (torch.zeros(4, 2), torch.zeros(4, 2), "none", "exact, local.*'none'"),
    ],
)
def test_wrong_arguments(z1, z2, gradient, message):
    with pytest.raises(ValueError, match=message):
        barlow_twins(z1, z2, gradient=gradient)
