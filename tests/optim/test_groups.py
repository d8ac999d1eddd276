"""Weight-decay groups and optimisers by name."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from lgrep.errors import ConfigError
from lgrep.optim import build_optimizer, parameter_groups


def names_by_group(module, **options):
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, 0.1, **options)
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


def test_a_vision_transformer_follows_stablerep():
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, embed_dim=48, num_heads=3)
    groups = names_by_group(module)
    assert groups["decay"] == {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
    }
    assert groups["decay"] | groups["no_decay"] == {name for name, _ in module.named_parameters()}
    assert not groups["decay"] & groups["no_decay"]


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        matrix = torch.zeros(2, 2)
        self.ln_final = nn.ParameterDict({"table": matrix})
        self.bn1 = nn.ParameterDict({"table": matrix.clone()})
        self.relative_position_bias_table = nn.Parameter(matrix.clone())
        self.biased_kiln = nn.Parameter(matrix.clone())  # holds the letters, not the words
        self.text_projection = nn.Parameter(matrix.clone())
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.text_projection


def test_names_count_only_as_whole_parts():
    groups = names_by_group(Named())
    assert groups["decay"] == {"biased_kiln", "text_projection"}
    assert groups["no_decay"] == {"ln_final.table", "bn1.table", "relative_position_bias_table", "logit_scale"}


def test_without_exclusion_everything_trainable_is_decayed():
    groups = parameter_groups(Named(), 0.01, exclude="none")
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.01, 6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": 0.1, "exclude": "norm_and_bais"}, "did you mean 'norm_and_bias'"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0"),
    ],
)
def test_wrong_groups_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parameter_groups(nn.Linear(2, 2), **arguments)
    with pytest.raises(ConfigError, match="no trainable"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def one_step(name, **options):
    module = nn.Linear(1, 1).double()
    nn.init.constant_(module.weight, 2.0)
    nn.init.constant_(module.bias, 2.0)
    optimizer = build_optimizer(name, parameter_groups(module, weight_decay=0.5), lr=0.1, **options)
    module.weight.grad = torch.full_like(module.weight, 3.0)
    module.bias.grad = torch.full_like(module.bias, 3.0)
    optimizer.step()
    return float(module.weight.detach()), float(module.bias.detach())


def test_one_step_by_hand():
    # Adam's first step is lr * sign; decoupled decay shrinks by lr * decay first
    assert one_step("adamw", betas=[0.9, 0.98], eps=1e-12) == pytest.approx((2 * 0.95 - 0.1, 2 - 0.1))
    assert one_step("sgd", momentum=0.9) == pytest.approx((2 - 0.1 * (3 + 0.5 * 2), 2 - 0.1 * 3))


def test_options_reach_the_optimiser():
    groups = parameter_groups(nn.Linear(2, 2), 0.1)
    optimizer = build_optimizer("adamw", groups, lr=1e-3, betas=[0.8, 0.98], eps=1e-6)
    assert all(
        (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.98), 1e-6, 1e-3) for group in optimizer.param_groups
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam_w", {}, "did you mean 'adamw'"),
        ("adamw", {"momentum": 0.9}, "no option 'momentum'"),
        ("sgd", {"nestrov": True}, "did you mean 'nesterov'"),
        ("adamw", {"betas": (0.9, 1.5)}, "refuses its settings"),
    ],
)
def test_wrong_optimisers_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(name, parameter_groups(nn.Linear(2, 2), 0.1), lr=0.1, **options)
