"""SimCLR and StableRep against their losses and heads written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lgrep.backbones import build_backbone
from lgrep.data.batch import Batch
from lgrep.errors import LgrepError
from lgrep.losses import multi_positive_contrastive, nt_xent
from lgrep.methods import Method, SimCLR, StableRep
from lgrep.methods.base import StepOutput, check_finite, step_seed


def batch(views: int = 2, anchors: int = 6, sizes: tuple[int, ...] = (32,), group: Tensor | None = None) -> Batch:
    rows = torch.arange(views * anchors).view(views, anchors)
    return Batch(
        views=[torch.randn(anchors, 3, sizes[v % len(sizes)], sizes[v % len(sizes)]) for v in range(views)],
        row=rows,
        group=(torch.arange(anchors) if group is None else group).expand(views, -1),
        label=torch.full_like(rows, -1),
    )


def head_by_hand(head: nn.Module, features: Tensor, views: int) -> Tensor:
    """Linear, BatchNorm over one view's batch, ReLU, ...: every view on its own."""
    parts = []
    for part in features.chunk(views):
        for layer in head:  # type: ignore[attr-defined]
            if isinstance(layer, nn.BatchNorm1d):
                mean, variance = part.mean(0), part.var(0, unbiased=False)
                part = (part - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias
            else:
                part = layer(part)
        parts.append(part)
    return torch.cat(parts)


def test_default_heads_are_the_published_one() -> None:
    for method in (SimCLR, StableRep):
        head = method(build_backbone("timm/test_vit", image_size=32)).projector
        shapes = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
        assert shapes == [(64, 4096), (4096, 4096), (4096, 256)]
        assert sum(isinstance(layer, nn.BatchNorm1d) for layer in head) == 2


def test_simclr_is_its_loss_on_per_view_heads() -> None:
    method = SimCLR(build_backbone("timm/test_resnet"), temperature=0.3, projector_dims=(32, 16)).double()
    data = batch()
    data.views = [view.double() for view in data.views]
    output = method.training_loss(data)
    embeddings = head_by_hand(method.projector, output.features, 2)
    torch.testing.assert_close(output.loss, nt_xent(embeddings[:6], embeddings[6:], 0.3))
    torch.testing.assert_close(output.embeddings, embeddings)


def test_stablerep_is_its_loss_with_captions_as_labels() -> None:
    method = StableRep(build_backbone("timm/test_resnet"), projector_dims=(32, 16)).double()
    data = batch(views=3, group=torch.tensor([5, 9, 5, 1, 2, 3]))  # one caption twice
    data.views = [view.double() for view in data.views]
    output = method.training_loss(data)
    embeddings = head_by_hand(method.projector, output.features, 3)
    torch.testing.assert_close(output.loss, multi_positive_contrastive(embeddings, data.group.flatten(), 0.1))
    method.positional_labels = True
    positional = method.training_loss(data).loss
    torch.testing.assert_close(positional, multi_positive_contrastive(embeddings, torch.arange(6).repeat(3), 0.1))
    assert abs(float(positional - output.loss)) > 1e-3


def test_views_of_several_sizes_keep_their_order() -> None:
    method = StableRep(build_backbone("timm/test_resnet"), projector_dims=(8,)).eval()
    data = batch(views=3, sizes=(32, 48))
    features = method.encode(data)
    with torch.no_grad():
        for v, view in enumerate(data.views):
            torch.testing.assert_close(features[6 * v : 6 * v + 6], method.backbone(view), rtol=1e-4, atol=1e-5)


def test_step_seeds_differ_and_repeat() -> None:
    keys = [(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)]
    seeds = [step_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert seeds == [step_seed(*key) for key in keys]
    assert all(0 <= value < 2**63 for value in seeds)


def test_a_method_without_an_objective_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Method(build_backbone("timm/test_resnet")).training_loss(batch())


def test_the_first_place_of_a_nan_is_named() -> None:
    features, loss = torch.zeros(4, 3), torch.tensor(1.0)
    check_finite(StepOutput(loss, features, features, {}), 7)
    broken = features.clone()
    broken[2, 1] = torch.inf
    with pytest.raises(LgrepError, match=r"step 7: embeddings not finite in 1 of 4 rows \(the first: 2\)"):
        check_finite(StepOutput(loss * torch.nan, features, broken, {}), 7)
    with pytest.raises(LgrepError, match="step 8: loss not finite"):
        check_finite(StepOutput(loss * torch.nan, features, features, {}), 8)
