"""Blocks that compute their activations again give the same gradients with less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_methods import make_batch, make_method
from torch import Tensor, nn

from lgrep.backbones import build_backbone
from lgrep.config.schema import Trainer
from lgrep.errors import ConfigError
from lgrep.methods.modules.blocks import blocks_of, checkpoint_activations
from lgrep.training.acceleration import apply_trades
from training.ranks import quick
from training.runs import assert_equal, overrides, run, state

NAMES = [
    ("timm/test_vit", {"drop_path_rate": 0.3, "proj_drop_rate": 0.2}),
    ("timm/test_resnet", {}),
    ("timm/test_convnext", {"drop_path_rate": 0.3}),
    ("torchvision/resnet18", {}),
]


def step(network: nn.Module, pictures: Tensor) -> tuple[list[Tensor], dict[str, Tensor], int]:
    """Gradients, state and elements kept for the backward pass."""
    kept: dict[int, int] = {}
    owned = {parameter.data_ptr() for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in owned:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(pictures).square().sum()
    loss.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return gradients, {key: value.clone() for key, value in network.state_dict().items()}, sum(kept.values())


@pytest.mark.parametrize(("name", "options"), NAMES)
def test_same_gradients_and_statistics_with_less_memory(name: str, options: dict[str, Any]) -> None:
    """Drop path and dropout draw the same numbers again, BatchNorm counts once; twice, as for two resolutions."""
    size = None if "resnet" in name or "convnext" in name else 64
    torch.manual_seed(0)
    plain = build_backbone(name, size, **options).double().train()
    torch.manual_seed(0)
    saving = build_backbone(name, size, **options).double().train()
    assert checkpoint_activations(saving) == len(blocks_of(plain)) >= 2
    pictures = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    for _ in range(2):
        (one, before, much), (other, after, little) = step(plain, pictures), step(saving, pictures)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) and len(one) > 5
        assert_equal(before, after)
        assert little < 0.8 * much
    assert torch.equal(plain.eval()(pictures), saving.eval()(pictures))


def test_blocks_of_text_towers_and_of_parts() -> None:
    import open_clip

    tower = open_clip.create_model("ViT-B-32", force_custom_text=True).text
    assert [type(block).__name__ for block in blocks_of(tower)] == ["ResidualAttentionBlock"] * 12
    assert blocks_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == []
    method = make_method("mae")
    expected = method.objective(make_batch((32,))).loss
    checkpoint_activations(method.backbone)  # whose blocks MAE calls by themselves
    assert torch.equal(method.objective(make_batch((32,))).loss, expected)


def test_runs_are_equal_and_teachers_and_pieces_work(tmp_path: Path) -> None:
    more = ("method=byol", "method.predictor_dims=[16,8]", "duration.steps=3", "schedule.warmup_steps=1")
    for name, on in (("plain", "false"), ("saving", "true")):
        arguments = overrides(tmp_path / "data", tmp_path / name, *more, f"trainer.activation_checkpointing={on}")
        run(quick(arguments))
    plain, saving = (state(tmp_path / name) for name in ("plain", "saving"))
    for key in ("state_dict", "optimizer_states"):
        assert_equal(saving[key], plain[key], key)
    pieces = (
        "trainer.chunk_size=2",
        "trainer.chunk_bn=true",
        "loader.batch_size=4",
        "trainer.activation_checkpointing=true",
    )
    assert run(quick(overrides(tmp_path / "data", tmp_path / "pieces", *more, *pieces)))["finished"]
    counted = state(tmp_path / "pieces")["state_dict"]["backbone.bn1.num_batches_tracked"]
    assert int(counted) == 3 * 2 * 2


def test_a_network_without_blocks_is_refused() -> None:
    method = make_method("simclr")
    method.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())  # type: ignore[assignment]
    method.backbone.name = "plain"
    with pytest.raises(ConfigError, match=r"plain has no blocks.*trainer\.chunk_size=N"):
        apply_trades(method, Trainer(activation_checkpointing=True))
