"""Cosine regression: published SiamLIP and BYOLIP values, lightly, processes, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import COUNTS, DOUBLE, averaged, close, few_examples, golden, slices, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lgrep.losses import negative_cosine


def published_pairs(targets):
    """(prediction, target) names of SiamLIP with two strong views: the other modality, every combination."""
    weak, strong = targets
    pairs = [("p_image", weak.format("text")), ("p_text", weak.format("image"))]
    for a in range(2):
        for b in range(2):
            pairs.append((f"p_image_local_{a}", strong.format("text", b)))
            pairs.append((f"p_text_local_{a}", strong.format("image", b)))
    return pairs


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("siamlip", ("v_{}", "v_{}_local_{}")),
        ("byolip", ("v_{}_momentum", "v_{}_local_momentum_{}")),
    ],
)
def test_siamlip_goldens(goldens, name, targets):
    case = goldens[name]["augs2"]
    predictions = ["p_image", "p_text", *[f"p_{m}_local_{a}" for m in ("image", "text") for a in range(2)]]

    def loss(*tensors):
        by_name = dict(zip(predictions, tensors, strict=True))
        terms = [negative_cosine(by_name[p], golden(case, "in", t)[0]) for p, t in published_pairs(targets)]
        return torch.stack(terms).mean()

    got = value_and_gradients(loss, *golden(case, "in", *predictions))
    close(got, golden(case, "out", "siamlip_loss", *[f"grad_{p}" for p in predictions]), 1e-6)


def test_target_has_no_gradient_and_lightly_agrees():
    peer = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()  # -cos, so 2 + 2 x it
    prediction, target = torch.randn(2, 7, 5, dtype=DOUBLE)
    got = value_and_gradients(lambda p: negative_cosine(p, target), prediction)
    close(got, value_and_gradients(lambda p: 2 + 2 * peer(p, target), prediction), 1e-10)
    target.requires_grad_()
    assert not negative_cosine(prediction, target).requires_grad


def test_simsiam_is_a_quarter_of_both_directions_less_one():
    p0, p1, z0, z1 = torch.randn(4, 6, 3, dtype=DOUBLE)
    cosines = [torch.cosine_similarity(p, z).mean() for p, z in ((p0, z1), (p1, z0))]
    both = negative_cosine(p0, z1) + negative_cosine(p1, z0)
    torch.testing.assert_close(both / 4 - 1, -sum(cosines) / 2)


def test_gradcheck():
    prediction, target = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True), torch.randn(4, 3, dtype=DOUBLE)
    assert gradcheck(lambda p: negative_cosine(p, target), prediction)


@given(seed=st.integers(0, 2**31), scales=st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6))
@few_examples
def test_order_and_lengths_of_rows_do_not_matter(seed, scales):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, 6, 4, dtype=DOUBLE, generator=generator)
    order = torch.randperm(6, generator=generator)
    lengths = torch.tensor(scales, dtype=DOUBLE)[:, None]
    whole = negative_cosine(prediction, target)
    torch.testing.assert_close(negative_cosine((prediction * lengths)[order], target[order]), whole)
    assert 0 <= whole <= 4


def shard(rank, prediction, target, counts):
    own = slices(counts)[rank]
    return value_and_gradients(lambda p: negative_cosine(p, target[own]), prediction[own])


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_several_processes(run_processes, counts):
    prediction, target = torch.randn(2, 12, 4, dtype=DOUBLE)
    expected = value_and_gradients(lambda p: negative_cosine(p, target), prediction)
    close(averaged(run_processes(shard, len(counts), prediction, target, counts)), expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    prediction, target = torch.randn(2, 16, 8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = negative_cosine(prediction, target.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), negative_cosine(prediction.double(), target.double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(4), torch.zeros(4), r"prediction must be floating point \[n, D\], got torch.float32 \[4\]"),
        (torch.zeros(4, 2), torch.zeros(3, 2), r"target must be floating point \[4, 2\].*\[3, 2\]"),
        (torch.zeros(4, 2).long(), torch.zeros(4, 2), "torch.int64"),
        (torch.zeros(4, 0), torch.zeros(4, 0), "prediction must be"),
        (torch.zeros(4, 2), torch.zeros(4, 2, device="meta"), "on cpu, got .* on meta"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "no rows"),
    ],
)
def test_wrong_arguments(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        negative_cosine(prediction, target)
