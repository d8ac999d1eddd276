"""Swapped prediction: published SwALIP objective, lightly's SwAV, processes, bad input."""

from __future__ import annotations

import pytest
import torch
from exactness import COUNTS, DOUBLE, averaged, close, golden, slices, value_and_gradients
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy, normalize

from lgrep.losses import sinkhorn, swapped_prediction

BRANCHES = ["z_image_global", "z_text_global", *[f"h_{m}_local_{a}" for m in ("image", "text") for a in range(2)]]


def both_directions(image, text, scale):
    logits = scale * normalize(image, dim=1) @ normalize(text, dim=1).T
    labels = torch.arange(len(image))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def swalip_term(images, texts, scale, epsilon, iterations):
    """The other modality's embeddings are the prototypes; both augmentations are swapped, the modality is kept."""
    images, texts = [[normalize(view, dim=1) for view in views] for views in (images, texts)]
    terms = []
    for queries, prototypes in ((images, texts), (texts, images)):
        scores = [[queries[a] @ prototypes[b].T for b in range(2)] for a in range(2)]
        targets = [[sinkhorn(score, epsilon, iterations) for score in row] for row in scores]
        for a in range(2):
            for b in range(2):
                terms.append(swapped_prediction(scale * scores[a][b], targets[1 - a][1 - b], temperature=1.0))
    return torch.stack(terms).mean()


def test_swalip_golden(goldens):
    """The whole published objective, so that its gradients can be compared; the contrastive part is by hand."""
    case = goldens["swalip"]["augs2"]
    epsilon, iterations = float(case["in"]["target_epsilon"]), int(case["in"]["sinkhorn_iterations"])
    seen = []

    def loss(z_image, z_text, i0, i1, t0, t1, scale, strong_scale):
        seen.append(swalip_term((i0, i1), (t0, t1), strong_scale, epsilon, iterations))
        strong = sum(both_directions(i, t, strong_scale) for i in (i0, i1) for t in (t0, t1)) / 4
        contrastive = (both_directions(z_image, z_text, scale) + 2 * strong) / 3
        return 2 * contrastive + float(case["in"]["swalip_weight"]) * seen[0]

    names = [*BRANCHES, "logit_scale", "h_logit_scale"]
    got = value_and_gradients(loss, *golden(case, "in", *names))
    close(got, golden(case, "out", "loss", *[f"grad_{name}" for name in names]), 1e-6)
    close(seen, golden(case, "out", "swalip_loss"), 1e-6)


def test_lightly_swav():
    """SwAV of two crops: the mean of both swaps."""
    peer = pytest.importorskip("lightly.loss").SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.5)
    scores = torch.randn(2, 8, 5, dtype=DOUBLE)

    def ours(a, b):
        return (swapped_prediction(b, sinkhorn(a, 0.5)) + swapped_prediction(a, sinkhorn(b, 0.5))) / 2

    close(value_and_gradients(ours, *scores), value_and_gradients(lambda a, b: peer([a, b], [])[0], *scores), 1e-10)


def test_softmax_runs_over_the_prototypes_not_the_batch():
    """The slip of the language-guided reference: its loss changes when the batch grows by equal rows, ours not."""
    scores, targets = torch.randn(3, 5), torch.rand(3, 5).softmax(dim=1)
    once, twice = (swapped_prediction(scores.repeat(k, 1), targets.repeat(k, 1)) for k in (1, 2))
    torch.testing.assert_close(once, twice)
    by_hand = -(targets * (scores / 0.1).softmax(dim=1).log()).sum(dim=1).mean()
    torch.testing.assert_close(once, by_hand)


def test_gradcheck():
    scores, targets = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True), torch.rand(4, 3, dtype=DOUBLE)
    assert gradcheck(lambda s: swapped_prediction(s, targets, 0.5), scores)


def shard(rank, scores, counts):
    own = slices(counts)[rank]
    return value_and_gradients(lambda a: swapped_prediction(a, sinkhorn(scores[1][own])), scores[0][own])


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_several_processes_with_their_sinkhorn_targets(run_processes, counts):
    scores = torch.randn(2, 12, 4, dtype=DOUBLE)
    expected = value_and_gradients(lambda a: swapped_prediction(a, sinkhorn(scores[1])), scores[0])
    close(averaged(run_processes(shard, len(counts), scores, counts)), expected, 1e-10)


def test_half_precision_is_computed_in_float32():
    scores, targets = torch.randn(16, 8).bfloat16(), torch.rand(16, 8).softmax(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = swapped_prediction(scores, targets)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), swapped_prediction(scores.double(), targets), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("scores", "targets", "temperature", "message"),
    [
        (torch.zeros(4), torch.zeros(4), 0.1, r"scores must be floating point \[n, K\]"),
        (torch.zeros(4, 2), torch.zeros(4, 3), 0.1, r"targets must be floating point \[4, 2\]"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), 0.1, r"targets .*torch.int64 \[4\]"),
        (torch.zeros(4, 2), torch.zeros(4, 2), -0.1, "temperature must be a positive"),
        (torch.zeros(0, 2), torch.zeros(0, 2), 0.1, "no rows"),
    ],
)
def test_wrong_arguments(scores, targets, temperature, message):
    with pytest.raises(ValueError, match=message):
        swapped_prediction(scores, targets, temperature)
