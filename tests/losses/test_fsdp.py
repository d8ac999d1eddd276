"""Losses under FSDP2: sharded parameters get the gradients of one process at the same global batch."""

from __future__ import annotations

import pytest
import torch
from distributed import run_processes
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lgrep import losses

SHARES = {2: (3, 5), 3: (2, 4, 2)}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 8)).double()


def objective(name: str, first: Tensor, second: Tensor, rows: slice) -> Tensor:
    if name == "nt_xent":
        return losses.nt_xent(first, second)
    if name == "siglip":
        return losses.siglip(first, second, 10.0, -5.0, block=3)
    if name == "clip":
        return losses.clip_contrastive(first, second, 10.0)
    labels = (torch.arange(8) // 2)[rows].repeat(2)
    return losses.multi_positive_contrastive(torch.cat([first, second]), labels)


def sharded_gradients(rank: int, name: str, shares: tuple[int, ...], pictures: Tensor) -> list[Tensor]:
    model = network()
    mesh = init_device_mesh("cpu", (len(shares),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    rows = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    first, second = model(pictures[0, rows]), model(pictures[1, rows])
    objective(name, first, second, rows).backward()
    return [parameter.grad.full_tensor() for parameter in model.parameters()]  # type: ignore[union-attr]


@pytest.mark.ddp
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", ["nt_xent", "multi_positive", "clip", "siglip"])
def test_gradients_equal_one_process(name: str, world_size: int) -> None:
    pictures = torch.randn(2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = network()
    objective(name, model(pictures[0]), model(pictures[1]), slice(0, 8)).backward()
    for rank in run_processes(sharded_gradients, world_size, name, SHARES[world_size], pictures):
        for parameter, gradient in zip(model.parameters(), rank, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12)
