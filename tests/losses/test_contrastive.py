"""Multi-positive and NT-Xent losses: published values, independent implementations, exactness on processes."""

from __future__ import annotations

import math

import pytest
import torch
from exactness import COUNTS, DOUBLE, averaged, close, slices, value_and_gradients
from torch.autograd import gradcheck

from lgrep.losses import multi_positive_contrastive, nt_xent


def by_hand(features, labels, temperature, ignore_lonely=False):
    """The definition, one anchor and one positive at a time."""
    unit = [row / row.norm() for row in features]
    losses = []
    for i, anchor in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if not positives:
            losses += [] if ignore_lonely else [features.new_zeros(())]
            continue
        partition = sum(torch.exp(anchor @ unit[j] / temperature) for j in others)
        probabilities = [torch.exp(anchor @ unit[p] / temperature) / partition for p in positives]
        losses.append(-sum(probability.log() for probability in probabilities) / len(positives))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("variant", ["even", "uneven", "tau007"])
def test_stablerep_goldens(goldens, variant):
    case = goldens["stablerep_multi_positive"][variant]
    labels, temperature = torch.from_numpy(case["in"]["labels"]), float(case["in"]["temperature"])
    features = torch.from_numpy(case["in"]["features"])
    got = value_and_gradients(lambda z: multi_positive_contrastive(z, labels, temperature), features)
    close(got, [torch.from_numpy(case["out"][name]) for name in ("loss", "grad_features")], 1e-6)


@pytest.mark.parametrize("variant", ["b8", "b5_tau05"])
def test_simclr_goldens(goldens, variant):
    case = goldens["simclr"][variant]
    views = [torch.from_numpy(case["in"][name]) for name in ("view_a", "view_b")]
    got = value_and_gradients(lambda a, b: nt_xent(a, b, float(case["in"]["temperature"])), *views)
    close(got, [torch.from_numpy(case["out"][name]) for name in ("loss", "grad_view_a", "grad_view_b")], 1e-6)


LABELS = {
    "pairs": [0, 1, 2, 0, 1, 2],
    "uneven": [5, 5, 5, 1, 2, 2, -1],
    "duplicates": [3, 3, 3, 3, 3, 3],
    "lonely": [0, 1, 2, 3],
}


@pytest.mark.parametrize("ignore_lonely", [False, True])
@pytest.mark.parametrize("labels", [LABELS["pairs"], LABELS["uneven"], LABELS["duplicates"]])
def test_multi_positive_equals_its_definition(labels, ignore_lonely):
    features, labels = torch.randn(len(labels), 5, dtype=DOUBLE), torch.tensor(labels)
    got = value_and_gradients(lambda z: multi_positive_contrastive(z, labels, 0.3, ignore_lonely), features)
    close(got, value_and_gradients(lambda z: by_hand(z, labels, 0.3, ignore_lonely), features), 1e-12)


@pytest.mark.parametrize("ignore_lonely", [False, True])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_multi_positive_gradcheck(labels, ignore_lonely):
    features = torch.randn(len(labels), 4, dtype=DOUBLE, requires_grad=True)
    labels = torch.tensor(labels)
    assert gradcheck(lambda z: multi_positive_contrastive(z, labels, 0.2, ignore_lonely), features)


def test_nt_xent_gradcheck():
    views = [torch.randn(4, 3, dtype=DOUBLE, requires_grad=True) for _ in range(2)]
    assert gradcheck(lambda a, b: nt_xent(a, b, 0.2), views)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_nt_xent_equals_lightly(temperature):
    lightly_loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=temperature)
    views = [torch.randn(7, 6, dtype=DOUBLE) for _ in range(2)]
    got = value_and_gradients(lambda a, b: nt_xent(a, b, temperature), *views)
    close(got, value_and_gradients(lightly_loss, *views), 1e-10)


def test_multi_positive_equals_supcon_of_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    features, labels = torch.randn(8, 6, dtype=DOUBLE), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    got = value_and_gradients(lambda z: multi_positive_contrastive(z, labels, 0.1), features)
    close(got, value_and_gradients(lambda z: losses.SupConLoss(temperature=0.1)(z, labels), features), 1e-8)


def test_two_positives_per_label_are_nt_xent():
    a, b = torch.randn(2, 6, 5, dtype=DOUBLE)
    labels = torch.arange(6).repeat(2)
    got = value_and_gradients(lambda a, b: multi_positive_contrastive(torch.cat([a, b]), labels, 0.1), a, b)
    close(got, value_and_gradients(lambda a, b: nt_xent(a, b, 0.1), a, b), 1e-12)


@pytest.mark.parametrize("views", [2, 4, 6])
def test_lower_bound_is_log_of_positives(views):
    labels = torch.arange(5).repeat(views)
    collapsed_groups = torch.eye(5, dtype=DOUBLE).repeat(views, 1)
    floor = multi_positive_contrastive(collapsed_groups, labels, 0.01)
    assert float(floor) == pytest.approx(math.log(views - 1), abs=1e-12)
    loose = multi_positive_contrastive(torch.randn(5 * views, 8, dtype=DOUBLE), labels, 0.1)
    assert float(loose) > math.log(views - 1)


def test_equal_embeddings_are_uniform_over_candidates():
    same = torch.ones(12, 4)
    assert float(multi_positive_contrastive(same, torch.arange(4).repeat(3))) == pytest.approx(math.log(11), abs=1e-6)
    assert float(nt_xent(same, same)) == pytest.approx(math.log(23), abs=1e-6)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("ignore_lonely", [False, True])
def test_without_positives_loss_and_gradient_are_zero(rows, ignore_lonely):
    features = torch.randn(rows, 3, requires_grad=True)
    loss = multi_positive_contrastive(features, torch.arange(rows), ignore_lonely=ignore_lonely)
    loss.backward()
    assert loss.item() == 0.0
    torch.testing.assert_close(features.grad, torch.zeros(rows, 3), rtol=0, atol=0)


def test_lonely_anchors_stay_in_the_mean_unless_ignored():
    features, labels = torch.randn(6, 4, dtype=DOUBLE), torch.tensor([0, 0, 1, 1, 2, 3])
    kept = multi_positive_contrastive(features, labels)
    ignored = multi_positive_contrastive(features, labels, ignore_lonely=True)
    torch.testing.assert_close(kept * 6, ignored * 4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_of_embeddings_and_extreme_temperatures_are_harmless(scale):
    a, b = torch.randn(2, 6, 5, dtype=DOUBLE)
    labels = torch.arange(6).repeat(2)
    for loss in (
        lambda x, y: nt_xent(x, y, 1e-3),
        lambda x, y: multi_positive_contrastive(torch.cat([x, y]), labels, 1e-3),
    ):
        value, *gradients = value_and_gradients(loss, a, b)
        scaled, *_ = value_and_gradients(loss, a * scale, b * scale)
        torch.testing.assert_close(value, scaled)
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    a, b = torch.randn(2, 16, 8, dtype=dtype)
    both, labels = torch.cat([a, b]), torch.arange(16).repeat(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = nt_xent(a, b), multi_positive_contrastive(both, labels)
    expected = nt_xent(a.double(), b.double())
    for value in got:
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


def multi_positive_shard(rank, features, labels, counts, ignore_lonely):
    own = slices(counts)[rank]
    return value_and_gradients(lambda z: multi_positive_contrastive(z, labels[own], 0.2, ignore_lonely), features[own])


def nt_xent_shard(rank, view_a, view_b, counts):
    own = slices(counts)[rank]
    return value_and_gradients(lambda a, b: nt_xent(a, b, 0.2), view_a[own], view_b[own])


GROUPS = {
    "three views": [0, 1, 2, 3] * 3,
    "duplicates": [0, 0, 0, 1, 1, 0, 0, 2, 2, 1, 1, 0],
    "lonely": [0, 1, 2, 3, 4, 5, 6, 0, 1, 0, 7, 8],
    "all lonely": list(range(12)),
}


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("labels", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize("ignore_lonely", [False, True])
def test_multi_positive_is_the_same_on_several_processes(run_processes, counts, labels, ignore_lonely):
    features, labels = torch.randn(12, 4, dtype=DOUBLE), torch.tensor(labels)
    results = run_processes(multi_positive_shard, len(counts), features, labels, counts, ignore_lonely)
    expected = value_and_gradients(lambda z: multi_positive_contrastive(z, labels, 0.2, ignore_lonely), features)
    close(averaged(results), expected, 1e-10)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_nt_xent_is_the_same_on_several_processes(run_processes, counts):
    views = torch.randn(2, 12, 4, dtype=DOUBLE)
    results = run_processes(nt_xent_shard, len(counts), *views, counts)
    close(averaged(results), value_and_gradients(lambda a, b: nt_xent(a, b, 0.2), *views), 1e-10)


@pytest.mark.parametrize(
    ("features", "labels", "temperature", "message"),
    [
        (torch.zeros(4), torch.arange(4), 0.1, r"features must be .*\[4\]"),
        (torch.zeros(4, 2, dtype=torch.long), torch.arange(4), 0.1, "floating point"),
        (torch.zeros(4, 2), torch.arange(3), 0.1, r"labels must be Long \[4\]"),
        (torch.zeros(4, 2), torch.arange(4.0), 0.1, "labels must be Long"),
        (torch.zeros(4, 2), torch.arange(4), 0.0, "temperature"),
        (torch.zeros(4, 2), torch.arange(4), math.nan, "temperature"),
        (torch.zeros(0, 2), torch.arange(0), 0.1, "no rows"),
    ],
)
def test_multi_positive_refuses_wrong_arguments(features, labels, temperature, message):
    with pytest.raises(ValueError, match=message):
        multi_positive_contrastive(features, labels, temperature)


@pytest.mark.parametrize(
    ("view_a", "view_b", "temperature", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(3, 2), 0.1, "the same for all"),
        (torch.zeros(4, 2), torch.zeros(4, 2), -1.0, "temperature"),
        (torch.zeros(0, 2), torch.zeros(0, 2), 0.1, "no rows"),
    ],
)
def test_nt_xent_refuses_wrong_arguments(view_a, view_b, temperature, message):
    with pytest.raises(ValueError, match=message):
        nt_xent(view_a, view_b, temperature)
