"""Sinkhorn: published assignment, lightly, blocks, processes, extreme scores, bad input."""

from __future__ import annotations

import importlib

import pytest
import torch
from exactness import COUNTS, DOUBLE, close, few_examples, golden, slices
from hypothesis import given
from hypothesis import strategies as st

from lgrep.losses import sinkhorn, sinkhorn_scalings


def test_golden(goldens):
    case = goldens["sinkhorn"]["b8k6"]
    (scores,) = golden(case, "in", "scores")
    got = sinkhorn(scores, float(case["in"]["epsilon"]), int(case["in"]["iterations"]))
    close([got], golden(case, "out", "assignment"), 1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_lightly(iterations):
    peer = pytest.importorskip("lightly.loss.swav_loss").sinkhorn
    scores = torch.randn(9, 5, dtype=DOUBLE)
    got = sinkhorn(scores, epsilon=0.3, iterations=iterations)
    torch.testing.assert_close(got, peer(scores, iterations=iterations, epsilon=0.3), rtol=1e-10, atol=1e-12)


def test_marginals_after_convergence():
    plan = sinkhorn(torch.randn(12, 4, dtype=DOUBLE), epsilon=0.5, iterations=200)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(12, dtype=DOUBLE))
    torch.testing.assert_close(plan.sum(dim=0), torch.full((4,), 3.0, dtype=DOUBLE))


@given(seed=st.integers(0, 2**31), shifts=st.lists(st.floats(-50, 50), min_size=5, max_size=5))
@few_examples
def test_order_and_shifts_of_prototypes_do_not_matter(seed, shifts):
    """A shift of a prototype's scores is undone by its first scaling."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(7, 5, dtype=DOUBLE, generator=generator)
    rows, columns = torch.randperm(7, generator=generator), torch.randperm(5, generator=generator)
    shifted = (scores + torch.tensor(shifts, dtype=DOUBLE))[rows][:, columns]
    torch.testing.assert_close(sinkhorn(shifted, 0.1), sinkhorn(scores, 0.1)[rows][:, columns], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_small_epsilon_does_not_overflow(dtype, scale):
    """exp(30 / 0.03) overflows even float64; logarithms do not."""
    scores = (scale * torch.randn(32, 8)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = sinkhorn(scores, epsilon=0.03)
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(32))
    torch.testing.assert_close(plan.double(), sinkhorn(scores.double(), epsilon=0.03), rtol=0, atol=1e-3)


def test_no_gradient():
    assert not sinkhorn(torch.randn(4, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize("block", [1, 4, 7])
def test_scalings_from_blocks_give_the_plan(block):
    image, text = torch.nn.functional.normalize(torch.randn(2, 7, 3, dtype=DOUBLE), dim=2)
    scores = image @ text.T
    scalings = sinkhorn_scalings(lambda: (part @ text.T for part in image.split(block)), epsilon=0.1)
    expected = sinkhorn(scores, epsilon=0.1)
    torch.testing.assert_close(scalings.plan(scores), expected, rtol=1e-12, atol=1e-12)
    part = scalings.plan(scores[2:5, 1:4], rows=slice(2, 5), columns=slice(1, 4))
    torch.testing.assert_close(part, expected[2:5, 1:4], rtol=1e-12, atol=1e-12)


def test_many_samples_are_worked_on_in_blocks(monkeypatch):
    scores = torch.randn(10, 4, dtype=DOUBLE)
    whole = sinkhorn(scores)
    module = importlib.import_module("lgrep.losses.sinkhorn")  # the package's attribute is the function
    monkeypatch.setattr(module, "BLOCK_ENTRIES", 12)
    torch.testing.assert_close(sinkhorn(scores), whole, rtol=1e-12, atol=1e-12)


def shard(rank, scores, counts):
    return sinkhorn(scores[slices(counts)[rank]], epsilon=0.05)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_several_processes(run_processes, counts):
    scores = torch.randn(12, 5, dtype=DOUBLE)
    parts = run_processes(shard, len(counts), scores, counts)
    torch.testing.assert_close(torch.cat(parts), sinkhorn(scores, epsilon=0.05), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("scores", "epsilon", "iterations", "message"),
    [
        (torch.zeros(4), 0.05, 3, r"scores must be floating point \[n, K\], got torch.float32 \[4\]"),
        (torch.zeros(4, 2).long(), 0.05, 3, "torch.int64"),
        (torch.zeros(4, 0), 0.05, 3, "scores must be"),
        (torch.zeros(0, 2), 0.05, 3, "no rows"),
        (torch.zeros(4, 2), 0.0, 3, "epsilon must be a positive finite number, got 0.0"),
        (torch.zeros(4, 2), float("nan"), 3, "epsilon"),
        (torch.zeros(4, 2), 0.05, 0, "iterations"),
    ],
)
def test_wrong_arguments(scores, epsilon, iterations, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(scores, epsilon, iterations)


def test_no_blocks():
    with pytest.raises(ValueError, match="yielded no tensor"):
        sinkhorn_scalings(list)
