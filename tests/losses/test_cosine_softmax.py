"""Cosine logits: published values, plain inner product, precision, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import DOUBLE, close, golden
from torch.autograd import gradcheck
from torch.nn.functional import cosine_similarity

from lgrep.losses import cosine_softmax_logits


def test_golden(goldens):
    case = goldens["trex_cosine_softmax"]["b6"]
    got = cosine_softmax_logits(*golden(case, "in", "embedding", "weight"), float(case["in"]["temperature"]))
    close([got], golden(case, "out", "logits"), 1e-6)


def test_definition_and_plain_inner_product():
    embedding, weight = torch.randn(5, 3, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE)
    cosines = cosine_similarity(embedding[:, None], weight[None], dim=2)
    torch.testing.assert_close(cosine_softmax_logits(embedding, weight, 0.2), cosines / 0.2)
    torch.testing.assert_close(cosine_softmax_logits(embedding, weight, None), embedding @ weight.T)


@pytest.mark.parametrize("temperature", [0.5, None])
def test_gradcheck(temperature):
    embedding = torch.randn(5, 3, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda e, w: cosine_softmax_logits(e, w, temperature), (embedding, weight))


def test_a_zero_row_gives_logit_zero_and_lengths_do_not_matter():
    embedding, weight = torch.randn(5, 3), torch.randn(4, 3)
    weight[2] = 0
    logits = cosine_softmax_logits(embedding, weight)
    assert (logits[:, 2] == 0).all()
    torch.testing.assert_close(cosine_softmax_logits(embedding * 7, weight * 0.1), logits)


def test_half_precision_is_computed_in_float32():
    embedding, weight = torch.randn(8, 16).bfloat16(), torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = cosine_softmax_logits(embedding, weight)
    assert got.dtype == torch.float32
    wide = cosine_softmax_logits(embedding.double(), weight.double())
    torch.testing.assert_close(got.double(), wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("embedding", "weight", "temperature", "message"),
    [
        (torch.zeros(4), torch.zeros(3, 4), 0.1, r"embedding must be floating point \[n, D\]"),
        (torch.zeros(4, 2), torch.zeros(3, 4), 0.1, r"weight must be floating point \[C, 2\].*\[3, 4\]"),
        (torch.zeros(4, 2), torch.zeros(0, 2), 0.1, "weight must be"),
        (torch.zeros(4, 2), torch.zeros(3, 2).long(), 0.1, "torch.int64"),
        (torch.zeros(4, 2), torch.zeros(3, 2), 0.0, "temperature"),
    ],
)
def test_wrong_arguments(embedding, weight, temperature, message):
    with pytest.raises(ValueError, match=message):
        cosine_softmax_logits(embedding, weight, temperature)
