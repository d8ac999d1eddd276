"""Heads against hand-made networks and published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lgrep.errors import ConfigError
from lgrep.methods.modules.heads import MLPHead, apply_per_view


@pytest.mark.parametrize(("width", "parameters"), [(384, 19_423_488), (768, 20_996_352), (1024, 22_044_928)])
def test_stablerep_projector_sizes(width, parameters):
    with torch.device("meta"):
        head = MLPHead(width)
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters
    assert head.out_dim == 256


def kinds(head):
    return [type(layer).__name__ for layer in head]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Linear", "BatchNorm1d", "ReLU", "Linear"]),
        ({"norm": "layer"}, ["Linear", "LayerNorm", "ReLU", "Linear"]),
        ({"norm": "none"}, ["Linear", "ReLU", "Linear"]),
        ({"last_norm": True}, ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]),
    ],
)
def test_layers(options, expected):
    assert kinds(MLPHead(6, dims=(5, 4), **options)) == expected


def test_one_layer_is_a_linear_projection():
    head = MLPHead(6, dims=[3], bias=False)
    assert [name for name, _ in head.named_parameters()] == ["linear1.weight"]


@pytest.mark.parametrize("bias", [True, False])
def test_output_by_hand(bias):
    head = MLPHead(6, dims=(5, 4), bias=bias).double()
    features = torch.randn(7, 6, dtype=torch.float64)
    weights = dict(head.named_parameters())
    hidden = features @ weights["linear1.weight"].T + (weights["linear1.bias"] if bias else 0)
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    expected = hidden.clamp(min=0) @ weights["linear2.weight"].T + (weights["linear2.bias"] if bias else 0)
    assert ("linear1.bias" in weights) is bias
    torch.testing.assert_close(head(features), expected, rtol=1e-12, atol=1e-12)


def test_statistics_are_per_view_and_running_ones_advance_once_per_view():
    views, anchors = 3, 5
    head = MLPHead(4, dims=(6, 2)).double()
    features = (torch.randn(views, anchors, 4) + 10 * torch.arange(views)[:, None, None]).double().flatten(0, 1)
    output = apply_per_view(head, features, views)
    running_mean = torch.zeros(6, dtype=torch.float64)
    for view in range(views):
        rows = features[view * anchors : (view + 1) * anchors]
        running_mean = 0.9 * running_mean + 0.1 * head.linear1(rows).mean(0)
    assert int(head.norm1.num_batches_tracked) == views
    torch.testing.assert_close(head.norm1.running_mean, running_mean.detach())
    separately = torch.cat([head(features[v * anchors : (v + 1) * anchors]) for v in range(views)])
    torch.testing.assert_close(output, separately, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(output, head(features), atol=0.1)


def test_rows_that_are_no_views_are_refused():
    with pytest.raises(ValueError, match="7 rows cannot be split into 3"):
        apply_per_view(nn.Identity(), torch.zeros(7, 2), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"dims": ()}, "positive widths"),
        ({"dims": (4, 0)}, "positive widths"),
        ({"norm": "none", "last_norm": True}, "last_norm"),
    ],
)
def test_wrong_heads_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MLPHead(4, **options)
