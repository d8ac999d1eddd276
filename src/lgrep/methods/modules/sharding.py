"""FSDP2: parameters, gradients and optimiser state divided among the processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lgrep.losses.gather import sum_over_processes, world
from lgrep.methods.modules.blocks import blocks_of
from lgrep.methods.modules.parts import backbones, networks


def shard(method: nn.Module, mesh: DeviceMesh) -> None:
    """Divide a method's parameters among the processes of a mesh, in place; state-dict keys stay as they are.

    Each block, then each network, then the rest is a unit that is whole only while it is used. Teachers are divided
    like their students, so that they follow them piece by piece. Parameters without dimensions (logit scales) stay
    whole: `average_scalars` after each backward pass.

    Args:
        method: complete, with the same weights on all processes; its `training_step` is where units are used.
        mesh: of one dimension.

    Paper:
        Zhao et al., FSDP, 2023, https://arxiv.org/abs/2304.11277.
    """
    for network in dict.fromkeys(networks(method)):
        for unit in (*blocks_of(network), network):
            if not isinstance(unit, FSDPModule):
                fully_shard(unit, mesh=mesh)
    fully_shard(method, mesh=mesh, ignored_params=set(_scalars(method)))
    register_fsdp_forward_method(method, "training_step")


def gather_backbones(method: nn.Module) -> None:
    """Makes backbones that are not called as a whole (all but their blocks) whole for one step."""
    if isinstance(method, FSDPModule):
        for backbone in backbones(method):
            backbone.unshard()  # type: ignore[operator]


@torch.no_grad()
def average_scalars(method: nn.Module) -> None:
    """The mean over processes of the gradients of parameters without dimensions (a collective)."""
    for parameter in _scalars(method):
        if parameter.grad is not None:
            parameter.grad = sum_over_processes(parameter.grad) / world()[1]


def apart(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups in which no fused kernel meets divided and whole parameters together."""
    parts = []
    for group in groups:
        divided = [p for p in group["params"] if isinstance(p, DTensor)]
        whole = [p for p in group["params"] if not isinstance(p, DTensor)]
        parts += [{**group, "params": params} for params in (divided, whole) if params]
    return parts


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.ndim == 0]
