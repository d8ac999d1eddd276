"""The losses over similarity matrices: blocks against the definition, peers, goldens, processes, gradient modes."""

from __future__ import annotations

import math

import pytest
import torch
from exactness import DOUBLE, close, slices, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from losses.test_contrastive import by_hand
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from lgrep import losses
from lgrep.losses.blocks import CPU_BLOCK
from lgrep.losses.partition import log_partition, log_partition_both, log_partition_self

N, D = 12, 5
LABELS = torch.tensor([0, 1, 1, 2, 0, 3, 3, 3, 1, 4, 0, 5])  # duplicates far apart, two lonely
TEXT_LABELS = torch.tensor(
    [0, 1, 2, 3, 3, 6, 5, 7, 0, 1, 1, 2]
)  # duplicate texts, texts and pictures without a partner
PAIRS = (
    torch.tensor([0, 5, 5, 9, 2]),
    torch.tensor([3, 1, 2, 11, 1]),
    torch.tensor([0.5, 2.0, 1.0, 3.0, 1.0]).double(),
)
IGNORED = (torch.tensor([0, 0, 1, 7, 11]), torch.tensor([4, 6, 8, 2, 0]))


def own_pairs(pairs, rows):
    """The pairs whose anchor lies in `rows`, counted from there."""
    inside = (pairs[0] >= rows.start) & (pairs[0] < rows.stop)
    return (pairs[0][inside] - rows.start, *(part[inside] for part in pairs[1:]))


# name -> (loss of (rows, *tensors, **options), kinds of its tensors: r = rows, s = a scale, b = a bias)
CASES = {
    "nt_xent": (lambda rows, a, b, **k: losses.nt_xent(a, b, 0.2, **k), "rr"),
    "multi_positive": (lambda rows, z, **k: losses.multi_positive_contrastive(z, LABELS[rows], 0.2, **k), "r"),
    "multi_positive_pairs": (
        lambda rows, z, **k: losses.multi_positive_contrastive(
            z, LABELS[rows], 0.2, True, own_pairs(PAIRS, rows), own_pairs(IGNORED, rows), **k
        ),
        "r",
    ),
    "multi_positive_image_text": (
        lambda rows, i, t, s, **k: losses.multi_positive_image_text(i, t, LABELS[rows], TEXT_LABELS[rows], s, **k),
        "rrs",
    ),
    "clip": (lambda rows, i, t, s, **k: losses.clip_contrastive(i, t, s, 0.1, **k), "rrs"),
    "clip_rocket": (
        lambda rows, i, t, i1, i2, t1, t2, s, h, **k: losses.clip_rocket(
            i, t, [i1, i2], [t1, t2], s, h, 0.1, "sum", **k
        ),
        "rrrrrrss",
    ),
    "swalip": (lambda rows, i1, i2, t1, t2, s, **k: losses.swalip([i1, i2], [t1, t2], s, 0.3, **k), "rrrrs"),
    "siglip": (lambda rows, i, t, s, b, **k: losses.siglip(i, t, s, b, **k), "rrsb"),
    "nnclr": (lambda rows, a, b, **k: losses.nnclr(a, b, KEYS[0][rows], KEYS[1][rows], 0.2, **k), "rr"),
    "moco_v3": (lambda rows, a, b, **k: losses.moco_v3(a, b, KEYS[0][rows], KEYS[1][rows], 0.2, **k), "rr"),
}
KEYS = torch.randn(2, N, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
WHOLE = slice(0, N)


def tensors_of(kinds, scale=7.0):
    made = {"r": lambda: torch.randn(N, D, dtype=DOUBLE), "s": lambda: torch.tensor(scale, dtype=DOUBLE)}
    return [made[kind]() if kind in made else torch.tensor(-2.0, dtype=DOUBLE) for kind in kinds]


@pytest.mark.parametrize("scale", [7.0, 700.0])
@pytest.mark.parametrize("block", [1, 5, 12, None])
@pytest.mark.parametrize("name", CASES)
def test_blocks_equal_the_whole_matrix(name, block, scale):
    """700 is beyond what exp of a similarity allows without its maximum."""
    loss, kinds = CASES[name]
    tensors = tensors_of(kinds, scale)
    got = value_and_gradients(lambda *t: loss(WHOLE, *t, block=block), *tensors)
    close(got, value_and_gradients(lambda *t: loss(WHOLE, *t, block=0), *tensors), 1e-10)


@pytest.mark.parametrize("block", [0, 5])
@pytest.mark.parametrize(
    "name", [name for name in CASES if name != "swalip"]
)  # its targets are constants: see its golden
def test_gradcheck(name, block):
    loss, kinds = CASES[name]
    tensors = [tensor.requires_grad_() for tensor in tensors_of(kinds)]
    assert gradcheck(lambda *t: loss(WHOLE, *t, block=block), tensors)


def test_partitions_at_any_temperature():
    """One similarity far above the others must not swallow them, nor vanish."""
    z = normalize(torch.randn(40, 6), dim=1)
    for scale in (0.01, 1.0, 39.0, 41.0, 1e4):
        matrix = scale * z.double() @ z.double().T
        expected = matrix.logsumexp(1)
        tolerance = {"rtol": 1e-5, "atol": 1e-5 * max(1, scale)}
        torch.testing.assert_close(log_partition(z, z, scale, block=16).double(), expected, **tolerance)
        one, other = log_partition_both(z, z[:7], scale, block=4)
        torch.testing.assert_close(one.double(), matrix[:, :7].logsumexp(1), **tolerance)
        torch.testing.assert_close(other.double(), matrix[:, :7].logsumexp(0), **tolerance)
        hidden = matrix.masked_fill(torch.eye(40, dtype=torch.bool), -torch.inf)
        torch.testing.assert_close(log_partition_self(z, scale, block=16).double(), hidden.logsumexp(1), **tolerance)


def test_opposite_embeddings_at_clips_largest_scale():
    """Every exp underflows in float32 unless the largest one is subtracted."""
    image = normalize(torch.randn(64, 8), dim=1).requires_grad_()
    value = losses.clip_contrastive(image, -image.detach(), torch.tensor(100.0), block=16)
    reference = losses.clip_contrastive(image.double(), -image.detach().double(), 100.0, block=0)
    torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=0)
    value.backward()
    assert image.grad.isfinite().all()


def image_text_by_hand(image, text, image_labels, text_labels, scale):
    logits = scale * normalize(image, dim=1) @ normalize(text, dim=1).T
    same = image_labels[:, None] == text_labels
    total = 0.0
    for matrix, positive in ((logits, same), (logits.T, same.T)):
        rows = [-matrix[i].log_softmax(0)[positive[i]].mean() for i in range(len(matrix)) if positive[i].any()]
        total = total + torch.stack(rows).sum() / len(matrix) / 2
    return total


def test_image_text_equals_its_definition():
    loss, kinds = CASES["multi_positive_image_text"]
    tensors = tensors_of(kinds)
    expected = value_and_gradients(lambda i, t, s: image_text_by_hand(i, t, LABELS, TEXT_LABELS, s), *tensors)
    close(value_and_gradients(lambda *t: loss(WHOLE, *t), *tensors), expected, 1e-12)


def weighted_by_hand(z, labels, temperature, positives, ignore):
    """One anchor at a time: a softmax over what is neither itself nor ignored, weights over positives."""
    unit, terms = normalize(z, dim=1), []
    hidden = set(zip(*(part.tolist() for part in ignore), strict=True))
    extra = {(i, j): w for i, j, w in zip(*(part.tolist() for part in positives), strict=True)}
    for i in range(len(z)):
        seen = [j for j in range(len(z)) if j != i and (i, j) not in hidden]
        weights = torch.tensor([float(labels[j] == labels[i]) + extra.get((i, j), 0.0) for j in seen]).double()
        if weights.sum() > 0:
            log_probability = torch.stack([unit[i] @ unit[j] / temperature for j in seen]).log_softmax(0)
            terms.append(-(weights * log_probability).sum() / weights.sum())
    return torch.stack(terms).mean()


def test_sparse_pairs_equal_their_definition():
    z = torch.randn(N, D, dtype=DOUBLE)
    got = value_and_gradients(
        lambda z: losses.multi_positive_contrastive(z, LABELS, 0.3, True, PAIRS, IGNORED, block=4), z
    )
    close(got, value_and_gradients(lambda z: weighted_by_hand(z, LABELS, 0.3, PAIRS, IGNORED), z), 1e-10)


def test_no_pairs_are_no_change():
    z, none = torch.randn(N, D, dtype=DOUBLE), torch.zeros(0, dtype=torch.long)
    plain = losses.multi_positive_contrastive(z, LABELS)
    torch.testing.assert_close(
        losses.multi_positive_contrastive(z, LABELS, positives=(none, none, torch.zeros(0))), plain
    )
    torch.testing.assert_close(losses.multi_positive_contrastive(z, LABELS, ignore=(none, none), block=5), plain)


def tensor(case, side, name):
    return torch.from_numpy(case[side][name])


@pytest.mark.parametrize("block", [0, 2])
def test_clip_golden(goldens, block):
    case = goldens["clip"]["b9"]
    inputs = [tensor(case, "in", name) for name in ("image_embedding", "text_embedding", "logit_scale")]
    got = value_and_gradients(lambda i, t, s: losses.clip_contrastive(i, t, s, block=block), *inputs)
    names = ("loss", "grad_image_embedding", "grad_text_embedding", "grad_logit_scale")
    close(got, [tensor(case, "out", name) for name in names], 1e-6)


@pytest.mark.parametrize(
    "variant", ["augs0_smooth0.0_avg", "augs1_smooth0.0_sum", "augs2_smooth0.1_avg", "augs2_smooth0.1_sum"]
)
def test_clip_rocket_goldens(goldens, variant):
    case, views = goldens["clip_rocket"][variant], int(variant[4])
    names = ["z_image_global", "z_text_global", "logit_scale"]
    names += [f"h_{side}_local_{view}" for side in ("image", "text") for view in range(views)]
    names += ["h_logit_scale"] if views else []

    def loss(image, text, scale, *strong):
        strong_scale = strong[-1] if views else 1.0
        return losses.clip_rocket(
            image, text, strong[:views], strong[views : 2 * views], scale, strong_scale,
            float(case["in"]["label_smoothing"]), "sum" if variant.endswith("sum") else "mean",
        )  # fmt: skip

    got = value_and_gradients(loss, *[tensor(case, "in", name) for name in names])
    close(got, [tensor(case, "out", name) for name in ["loss", *(f"grad_{name}" for name in names)]], 1e-6)


@pytest.mark.parametrize("block", [0, 4])
def test_swalip_golden(goldens, block):
    """The published objective: twice the mean of CLIP-rocket, and 0.2 of the swapped assignments."""
    case = goldens["swalip"]["augs2"]
    names = ["z_image_global", "z_text_global", "h_image_local_0", "h_image_local_1", "h_text_local_0",
             "h_text_local_1", "logit_scale", "h_logit_scale"]  # fmt: skip
    seen = []

    def loss(image, text, i0, i1, t0, t1, scale, strong_scale):
        seen.append(losses.swalip([i0, i1], [t0, t1], strong_scale, float(case["in"]["target_epsilon"]), block=block))
        rocket = losses.clip_rocket(image, text, [i0, i1], [t0, t1], scale, strong_scale, 0.0, "sum", block=block)
        return rocket + float(case["in"]["swalip_weight"]) * seen[0]

    got = value_and_gradients(loss, *[tensor(case, "in", name) for name in names])
    close(got, [tensor(case, "out", name) for name in ["loss", *(f"grad_{name}" for name in names)]], 1e-6)
    close(seen, [tensor(case, "out", "swalip_loss")], 1e-6)


def test_nnclr_golden(goldens):
    case = goldens["nnclr"]["b7"]
    neighbours = [tensor(case, "in", name) for name in ("neighbour_a", "neighbour_b")]
    predictions = [tensor(case, "in", name) for name in ("prediction_a", "prediction_b")]
    got = value_and_gradients(
        lambda a, b: losses.nnclr(a, b, *neighbours, float(case["in"]["temperature"])), *predictions
    )
    close(got, [tensor(case, "out", name) for name in ("loss", "grad_prediction_a", "grad_prediction_b")], 1e-6)


@pytest.mark.parametrize("variant", ["w11", "w_half"])
def test_stablerep_plus_goldens(goldens, variant):
    case = goldens["stablerep_plus"][variant]
    names = ("image_features", "image_embedding", "text_embedding", "logit_scale")
    image_labels, text_labels = (tensor(case, "in", name) for name in ("image_labels", "text_labels"))
    temperature, image_weight, text_weight = (
        float(case["in"][name]) for name in ("temperature", "image_weight", "text_weight")
    )

    def loss(features, image, text, scale):
        contrast = losses.multi_positive_contrastive(features, image_labels, temperature)
        matching = losses.multi_positive_image_text(image, text, image_labels, text_labels, scale)
        return image_weight * contrast + text_weight * matching

    got = value_and_gradients(loss, *[tensor(case, "in", name) for name in names])
    close(got, [tensor(case, "out", name) for name in ("loss", *(f"grad_{name}" for name in names))], 1e-6)


def test_clip_equals_open_clip_and_torch():
    loss = pytest.importorskip("open_clip.loss").ClipLoss()
    image, text, scale = tensors_of("rrs")
    unit = value_and_gradients(lambda i, t, s: loss(normalize(i, dim=1), normalize(t, dim=1), s), image, text, scale)
    close(value_and_gradients(losses.clip_contrastive, image, text, scale), unit, 1e-10)
    logits = scale * normalize(image, dim=1) @ normalize(text, dim=1).T
    smooth = sum(cross_entropy(m, torch.arange(N), label_smoothing=0.2) for m in (logits, logits.T)) / 2
    torch.testing.assert_close(losses.clip_contrastive(image, text, scale, 0.2), smooth)


def test_siglip_equals_open_clip():
    loss = pytest.importorskip("open_clip.loss").SigLipLoss()
    tensors = tensors_of("rrsb")
    expected = value_and_gradients(lambda i, t, s, b: loss(normalize(i, dim=1), normalize(t, dim=1), s, b), *tensors)
    close(value_and_gradients(losses.siglip, *tensors), expected, 1e-10)


def test_siglip_with_large_logits_is_exact():
    image, text = torch.eye(4, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE).roll(1, 0)
    signs = 2 * torch.eye(4, dtype=DOUBLE) - 1
    expected = -logsigmoid(signs * (300 * image @ text.T - 5)).sum() / 4
    for block in (0, 3):
        torch.testing.assert_close(losses.siglip(image, text, 300.0, -5.0, block=block), expected)


def test_moco_v3_equals_its_definition():
    a, b = torch.randn(2, N, D, dtype=DOUBLE)

    def direction(query, key):
        return cross_entropy(normalize(query, dim=1) @ normalize(key, dim=1).T / 0.2, torch.arange(N)) * 2 * 0.2

    expected = value_and_gradients(lambda a, b: direction(a, KEYS[1]) + direction(b, KEYS[0]), a, b)
    close(value_and_gradients(lambda a, b: losses.moco_v3(a, b, *KEYS, 0.2), a, b), expected, 1e-12)


def shard(rank, name, counts, tensors, block):
    loss, kinds = CASES[name]
    own = slices(counts)[rank]
    mine = [tensor[own] if kind == "r" else tensor for kind, tensor in zip(kinds, tensors, strict=True)]
    return value_and_gradients(lambda *t: loss(own, *t, block=block), *mine)


def gathered(results, kinds):
    """What DDP makes of it, for rows and for shared scalars."""
    values = torch.stack([result[0] for result in results]).mean()
    parts = zip(*[result[1:] for result in results], strict=True)
    gradients = [
        torch.cat(part) / len(part) if kind == "r" else torch.stack(part).mean()
        for kind, part in zip(kinds, parts, strict=True)
    ]
    return [values, *gradients]


@pytest.mark.ddp
@pytest.mark.parametrize("counts", [(6, 6), (1, 11), (4, 4, 4), (5, 0, 7)], ids=str)
@pytest.mark.parametrize("block", [0, 5])
@pytest.mark.parametrize("name", CASES)
def test_several_processes_equal_one(run_processes, name, counts, block):
    loss, kinds = CASES[name]
    tensors = tensors_of(kinds)
    results = run_processes(shard, len(counts), name, counts, tensors, block)
    expected = value_and_gradients(lambda *t: loss(WHOLE, *t, block=0), *tensors)
    close(gathered(results, kinds), expected, 1e-10)


def modes_shard(rank, name, counts, tensors, mode):
    loss, kinds = CASES[name]
    own = slices(counts)[rank]
    mine = [tensor[own] if kind == "r" else tensor for kind, tensor in zip(kinds, tensors, strict=True)]
    return value_and_gradients(lambda *t: loss(own, *t, gather_gradients=mode), *mine)


def emulated_nt_xent(a, b, own, mode):
    """The share of one of several processes, keys cut by hand where the mode cuts them."""
    keys_a, keys_b = (cut_keys(view, own, mode) for view in (a, b))
    total = 0.0
    for query, first, second in ((a[own], keys_b, keys_a), (b[own], keys_a, keys_b)):
        logits = normalize(query, dim=1) @ normalize(torch.cat([first, second]), dim=1).T / 0.2
        for k, i in enumerate(range(own.start, own.stop)):
            seen = [j for j in range(2 * N) if j != N + i]
            total = total - logits[k][seen].log_softmax(0)[i]
    return total / (2 * N)


def emulated_clip(image, text, scale, own, mode):
    keys_i, keys_t = cut_keys(image, own, mode), cut_keys(text, own, mode)
    total = 0.0
    for query, keys in ((image, keys_t), (text, keys_i)):
        logits = scale * normalize(query[own], dim=1) @ normalize(keys, dim=1).T
        total = total + cross_entropy(logits, torch.arange(own.start, own.stop), label_smoothing=0.1, reduction="sum")
    return total / (2 * N)


def emulated_siglip(image, text, scale, bias, own, mode):
    logits = scale * normalize(image[own], dim=1) @ normalize(cut_keys(text, own, mode), dim=1).T + bias
    signs = torch.full_like(logits, -1.0)
    signs[torch.arange(own.stop - own.start), torch.arange(own.start, own.stop)] = 1.0
    return -logsigmoid(signs * logits).sum() / N


def cut_keys(view, own, mode):
    if mode == "exact":
        return view
    keys = view.detach().clone()
    return torch.cat([keys[: own.start], view[own], keys[own.stop :]]) if mode == "local" else keys


EMULATED = {"nt_xent": emulated_nt_xent, "clip": emulated_clip, "siglip": emulated_siglip}


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in EMULATED for mode in ("exact", "local", "none") if (name, mode) != ("siglip", "none")],
)
def test_gradient_modes_against_an_emulation_by_hand(run_processes, name, mode):
    """DDP's average over two processes is the gradient of the sum of both shares with the cut keys."""
    _, kinds = CASES[name]
    tensors, counts = tensors_of(kinds), (7, 5)
    results = run_processes(modes_shard, 2, name, counts, tensors, mode)

    def emulate(*t):
        return sum(EMULATED[name](*t, own, mode) for own in slices(counts))

    close(gathered(results, kinds), value_and_gradients(emulate, *tensors), 1e-10)
    if mode != "exact":
        whole = value_and_gradients(lambda *t: CASES[name][0](WHOLE, *t), *tensors)
        assert not torch.allclose(gathered(results, kinds)[2], whole[2], rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(2, 9), scale=st.floats(0.01, 100.0))
def test_order_and_length_of_embeddings_do_not_matter(seed, n, scale):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, 4, dtype=DOUBLE, generator=generator)
    order = torch.randperm(n, generator=generator)
    labels = torch.randint(0, 3, (n,), generator=generator)
    for loss in (
        lambda x, y, o: losses.nt_xent(x, y, 0.3, block=2),
        lambda x, y, o: losses.clip_contrastive(x, y, 3.0, block=2),
        lambda x, y, o: losses.siglip(x, y, 3.0, -1.0, block=2),
        lambda x, y, o: losses.multi_positive_contrastive(x, labels[o], block=2),
        lambda x, y, o: losses.multi_positive_image_text(x, y, labels[o], labels[o], 3.0, block=2),
    ):
        plain = loss(a, b, torch.arange(n))
        torch.testing.assert_close(loss(a[order], b[order], order), plain, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(loss(scale * a, b, torch.arange(n)), plain, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(2, 8), temperature=st.floats(0.03, 2.0))
def test_relations_between_losses(seed, n, temperature):
    a, b = torch.randn(2, n, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    pairs, tight = torch.arange(n), {"rtol": 1e-9, "atol": 1e-9}
    both = losses.multi_positive_contrastive(torch.cat([a, b]), pairs.repeat(2), temperature, block=3)
    torch.testing.assert_close(both, losses.nt_xent(a, b, temperature), **tight)
    clip = losses.clip_contrastive(a, b, 1 / temperature, block=3)
    torch.testing.assert_close(losses.multi_positive_image_text(a, b, pairs, pairs, 1 / temperature), clip, **tight)
    torch.testing.assert_close(losses.clip_rocket(a, b, [], [], 1 / temperature, 1.0), clip, **tight)
    moco = losses.moco_v3(a, b, a, b, temperature)
    torch.testing.assert_close(moco, 4 * temperature * losses.nnclr(a, b, a, b, temperature), **tight)
    torch.testing.assert_close(
        losses.nnclr(a, a, b, b, temperature) * 2 + losses.nnclr(b, b, a, a, temperature) * 2, 4 * clip, **tight
    )


def test_large_batches_choose_blocks_and_agree_with_float64():
    """Uneven last blocks, both directions, in float32."""
    n = CPU_BLOCK + 77
    z, labels = torch.randn(2 * n, 16), torch.arange(n).repeat(2)
    got = value_and_gradients(lambda z: losses.multi_positive_contrastive(z, labels), z)
    expected = value_and_gradients(lambda z: losses.multi_positive_contrastive(z, labels, block=0), z.double())
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-4, atol=1e-8)


def test_multi_positive_large_against_its_definition():
    z = torch.randn(60, 6, dtype=DOUBLE)
    labels = torch.randint(0, 20, (60,))
    close(
        value_and_gradients(lambda z: losses.multi_positive_contrastive(z, labels, 0.5, block=16), z),
        value_and_gradients(lambda z: by_hand(z, labels, 0.5), z), 1e-11,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiled_without_breaks(name):
    loss, kinds = CASES[name]
    tensors = tensors_of(kinds)
    torch.compiler.reset()
    compiled = torch.compile(lambda *t: loss(WHOLE, *t, block=5), backend="aot_eager", fullgraph=True)
    close(value_and_gradients(compiled, *tensors), value_and_gradients(lambda *t: loss(WHOLE, *t), *tensors), 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_nothing(name):
    loss, kinds = CASES[name]
    tensors = [tensor.float() for tensor in tensors_of(kinds)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(WHOLE, *tensors)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(WHOLE, *tensors), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: losses.clip_contrastive(z, z[:3], 1.0), "the same for all"),
        (lambda z: losses.clip_contrastive(z, z, 0.0), "logit_scale must be a positive"),
        (lambda z: losses.clip_contrastive(z, z, math.inf), "logit_scale must be a positive"),
        (lambda z: losses.clip_contrastive(z, z, torch.ones(2)), r"shape \[\], got torch.float32 \[2\]"),
        (lambda z: losses.clip_contrastive(z, z, 1.0, 1.0), "label_smoothing must be"),
        (lambda z: losses.clip_contrastive(z[:0], z[:0], 1.0), "no rows"),
        (lambda z: losses.clip_contrastive(z, z, 1.0, gather_gradients="some"), "exact, local, none; got 'some'"),
        (lambda z: losses.nt_xent(z, z, gather_gradients="some"), "exact, local, none; got 'some'"),
        (lambda z: losses.multi_positive_contrastive(z, torch.arange(4), gather_gradients="some"), "got 'some'"),
        (lambda z: losses.clip_rocket(z, z, [z], [], 1.0, 1.0), "equally many views; got 1 and 0"),
        (lambda z: losses.clip_rocket(z, z, [z], [z], 1.0, 1.0, 0.0, "avg"), "'mean' or 'sum', got 'avg'"),
        (lambda z: losses.siglip(z, z[0], 1.0, 0.0), "image and text must be"),
        (lambda z: losses.siglip(z, z, 1.0, 0.0, gather_gradients="none"), "texts without a gradient"),
        (lambda z: losses.nnclr(z, z, z, z, 0.0), "temperature"),
        (lambda z: losses.moco_v3(z, z, z, z[:1]), "the same for all"),
        (lambda z: losses.multi_positive_image_text(z, z[:, :2], torch.arange(4), torch.arange(4), 1.0), "share D"),
        (lambda z: losses.multi_positive_image_text(z, z, torch.arange(3), torch.arange(4), 1.0), "image_labels must be"),
        (lambda z: losses.multi_positive_image_text(z, z, torch.arange(4), torch.arange(4.0), 1.0), "text_labels must be"),
        (lambda z: losses.multi_positive_contrastive(z, torch.arange(4), ignore=(torch.arange(2), torch.arange(3))), "ignore must be"),
        (lambda z: losses.multi_positive_contrastive(z, torch.arange(4), positives=(torch.arange(2), torch.arange(2))), "positives must be"),
        (lambda z: losses.multi_positive_contrastive(z, torch.arange(4, device="meta")), r"labels must be Long \[4\] on cpu, got torch.int64 \[4\] on meta"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4, 3))


def test_zero_vectors_have_a_loss_and_finite_gradients():
    for name, (loss, kinds) in CASES.items():
        tensors = tensors_of(kinds)
        tensors[0][3] = 0.0
        value, *gradients = value_and_gradients(lambda *t: loss(WHOLE, *t), *tensors)
        assert value.isfinite() and all(gradient.isfinite().all() for gradient in gradients), name


def test_not_a_number_is_not_hidden():
    for name, (loss, kinds) in CASES.items():
        for block in (0, 5):
            tensors = tensors_of(kinds)
            tensors[0][3, 1] = math.nan
            assert loss(WHOLE, *tensors, block=block).isnan(), (name, block)


def test_no_matrix_is_kept_for_the_backward_pass():
    """What autograd saves grows with the rows alone."""
    for name, (loss, _) in CASES.items():
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            tensors = [tensor.requires_grad_() for tensor in tensors_of(CASES[name][1])]
            loss(WHOLE, *tensors, block=5)
        assert max(kept) <= 2 * 2 * N * D, (name, max(kept))
