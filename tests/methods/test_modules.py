"""Shared modules against lightly's, or computed by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from lightly.models.modules import NNMemoryBankModule
from lightly.models.modules.heads import DINOProjectionHead
from lightly.models.utils import get_2d_sincos_pos_embed, update_momentum
from scipy.stats import kstest
from torch import nn
from torch.nn.functional import normalize

from lgrep.backbones import build_backbone
from lgrep.data.batch import Batch
from lgrep.methods.base import relations_between
from lgrep.methods.mae import MAE
from lgrep.methods.modules.heads import TrexProjector
from lgrep.methods.modules.masking import keyed_uniform, random_order
from lgrep.methods.modules.positions import sincos_positions
from lgrep.methods.modules.prototypes import DinoHead, Prototypes
from lgrep.methods.modules.queue import FeatureQueue
from lgrep.methods.modules.swav_queue import AssignmentQueue
from lgrep.methods.modules.teacher import Teacher, cosine_momentum


def test_a_teacher_follows_as_lightlys_does() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    teacher, theirs = Teacher(net=student), copy.deepcopy(student)
    for parameter in student.parameters():
        parameter.data += torch.randn_like(parameter)
    teacher.follow(0.97, net=student)
    update_momentum(student, theirs, 0.97)
    for own, other in zip(teacher["net"].parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_the_momentum_is_byols_cosine() -> None:
    values = [cosine_momentum(0.99, step / 100) for step in range(101)]
    assert values[0] == 0.99 and values[-1] == 1.0 and values[50] == pytest.approx(0.995)
    assert values == sorted(values)


@pytest.mark.parametrize("batches", [[3, 3, 3, 3], [4, 5, 2, 6], [7, 1, 7]])
def test_the_cut_queue_is_lightlys_memory_bank(batches: list[int]) -> None:
    torch.manual_seed(1)
    bank, queue = NNMemoryBankModule(size=(8, 4)), FeatureQueue(8, 4, wrap=False)
    bank(torch.randn(1, 4), update=False)  # makes its entries, [size, dim]
    queue.features.copy_(bank.bank)
    for count in batches:
        new = normalize(torch.randn(count, 4), dim=1)
        torch.testing.assert_close(queue.nearest(new), bank(new, update=True))
        queue.push(new)
        torch.testing.assert_close(queue.features, bank.bank)
        assert int(queue.pointer) == int(bank.bank_ptr)


def test_the_wrapping_queue_holds_the_newest_rows() -> None:
    queue, seen = FeatureQueue(6, 2), torch.zeros(0, 2)
    for count in (4, 4, 3, 9, 2):
        new = normalize(torch.randn(count, 2), dim=1)
        queue.push(new)
        seen = torch.cat([seen, new])
        if len(seen) >= 6:
            nearest = (queue.features @ seen[-6:].T).argmax(dim=1)
            assert sorted(nearest.tolist()) == list(range(6))
            torch.testing.assert_close(queue.features, seen[-6:][nearest])


def test_a_queue_keeps_its_place_in_checkpoints() -> None:
    queue = FeatureQueue(5, 2)
    queue.push(torch.randn(3, 2))
    again = FeatureQueue(5, 2)
    again.load_state_dict(queue.state_dict())
    new = torch.randn(4, 2)
    queue.push(new), again.push(new)
    torch.testing.assert_close(queue.features, again.features)


def test_dinos_head_is_lightlys() -> None:
    torch.manual_seed(2)
    theirs = DINOProjectionHead(6, 10, 4, 12)
    ours = DinoHead(6, 12, 10, 4)
    linears = [layer for layer in theirs.layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for own, other in zip([layer for layer in ours.mlp if isinstance(layer, nn.Linear)], linears, strict=True):
            own.weight.copy_(other.weight)
            own.bias.copy_(other.bias)
        ours.prototypes.copy_(theirs.last_layer.parametrizations.weight.original1
                              if hasattr(theirs.last_layer, "parametrizations") else theirs.last_layer.weight_v)  # fmt: skip
    features = torch.randn(7, 6)
    torch.testing.assert_close(ours(features), theirs(features))


def test_prototypes_have_unit_length() -> None:
    prototypes = Prototypes(4, 3)
    with torch.no_grad():
        prototypes.weight.mul_(5)
    prototypes.unit_length()
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(3))


def test_positions_are_lightlys() -> None:
    ours = sincos_positions(16, (5, 5), prefix=1)
    torch.testing.assert_close(ours[0], torch.from_numpy(get_2d_sincos_pos_embed(16, 5, cls_token=True)).float())
    with pytest.raises(ValueError, match="multiple of 4; got 6"):
        sincos_positions(6, (2, 2))


def test_keyed_numbers_are_uniform_and_depend_on_the_key_alone() -> None:
    keys = torch.stack([torch.arange(40) % 3, torch.arange(40)])
    drawn = keyed_uniform(7, keys, 0, 500)
    assert kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(drawn[:, :2].T)[0, 1])) < 0.5
    torch.testing.assert_close(drawn[[5, 9]], keyed_uniform(7, keys[:, [5, 9]], 0, 500))
    for other in (keyed_uniform(8, keys, 0, 500), keyed_uniform(7, keys, 1, 500)):
        assert float((other == drawn).float().mean()) < 0.01
    moved = keyed_uniform(7, keys + torch.tensor([[1], [0]]), 0, 500)
    assert float((moved == drawn).float().mean()) < 0.01


def test_orders_are_permutations_that_favour_no_place() -> None:
    keys = torch.stack([torch.zeros(3000, dtype=torch.long), torch.arange(3000)])
    order = random_order(0, keys, 0, 9)
    assert bool((order.sort(dim=1).values == torch.arange(9)).all())
    first = torch.bincount(order[:, 0], minlength=9)
    assert float(((first - 3000 / 9) ** 2 / (3000 / 9)).sum()) < 26.1  # chi-square, 8 degrees, p = 0.001


def test_the_decoder_sees_each_visible_patch_in_its_place() -> None:
    """A change in a patch that is masked changes no encoded token, and patches come back in reading order."""
    method = MAE(build_backbone("timm/test_vit", image_size=32, patch_size=8), decoder_dim=16, decoder_depth=1,
                 decoder_heads=2).double().eval()  # fmt: skip
    pictures = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    patches = method._patches(pictures)
    row, column = 2, 1
    cut = pictures[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(patches[:, 4 * row + column], cut)
    visible = torch.tensor([[0, 3, 7], [1, 2, 15]])
    encoded = method._encode(pictures, visible)
    changed = pictures.clone()
    changed[:, :, 16:24, 8:16] += 1.0  # patch 9, hidden in both
    torch.testing.assert_close(method._encode(changed, visible), encoded)
    assert not method.backbone.pos_embed.requires_grad


def test_trexs_projector_by_hand() -> None:
    torch.manual_seed(0)
    head = TrexProjector(5, 1, 8, 3).eval()
    features = torch.randn(4, 5)
    linear, norm, _, last = head.layers
    hidden = nn.functional.gelu(norm(linear(features / features.norm(dim=1, keepdim=True))))
    torch.testing.assert_close(head(features), hidden @ last.weight.T)
    assert last.bias is None and sum(p.numel() for p in TrexProjector(5, 0, 8, 3).parameters()) == 15


def test_each_process_brings_its_share_of_the_assignment_queue() -> None:
    queue = AssignmentQueue(6, 2)
    queue.push(1, torch.randn(2, 2))
    assert queue.share(1).shape == (6, 2) and queue.share(5).shape == (0, 2)


def test_related_pairs_keep_their_place_on_one_process() -> None:
    plain = Batch([], torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    assert relations_between(plain, 2) == (None, None)
    pairs, weights = torch.tensor([[0], [1]]), torch.ones(1)
    related = Batch([], plain.row, plain.group, plain.label, positives=(pairs, weights), ignore=pairs.flip(0))
    positives, ignore = relations_between(related, 2)
    assert positives is not None and ignore is not None
    assert [int(part[0]) for part in positives[:2]] == [0, 1] and [int(part[0]) for part in ignore] == [1, 0]
