"""Which network a file of weights belongs to, read from the names and shapes in it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lgrep.errors import CheckpointError

RESNETS = {  # blocks per stage, bottleneck
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
VITS = {192: "vit_tiny", 384: "vit_small", 768: "vit_base", 1024: "vit_large"}
HEAD_WIDTH = 64  # of every published ViT but MoCo v3's ViT-S, whose heads no shape tells


def find_architecture(
    states: Mapping[str, Tensor], place: str, heads: int | None = None
) -> tuple[str, dict[str, Any], int]:
    """Registry name, options and picture size of the network that weights in timm's or torchvision's names fit.

    Args:
        states: encoder weights, with or without a classifier.
        place: for messages.
        heads: attention heads of a ViT; None: width / 64.

    Raises:
        CheckpointError: neither a ResNet nor a plain ViT.
    """
    if "patch_embed.proj.weight" in states and "pos_embed" in states:
        return _vit(states, place, heads)
    if "conv1.weight" in states and "layer4.0.conv1.weight" in states:
        return _resnet(states, place)
    shown = ", ".join(sorted(states)[:4])
    raise CheckpointError(
        f"{place}: no ResNet and no ViT in the names of timm or torchvision ({shown}, ...). "
        "Say which network it is: --backbone timm/NAME"
    )


def _resnet(states: Mapping[str, Tensor], place: str) -> tuple[str, dict[str, Any], int]:
    blocks = tuple(_count(states, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in states
    name = RESNETS.get((blocks, bottleneck))  # type: ignore[arg-type]
    width = states["conv1.weight"].shape[0]
    if name is None or width != 64 or states["layer1.0.conv1.weight"].shape[0] != 64:
        raise CheckpointError(
            f"{place}: a ResNet with {blocks} blocks and a stem of {width} channels has no name here. "
            "Say which network it is: --backbone timm/NAME"
        )
    if states["conv1.weight"].shape[-1] == 3:
        return f"timm/{name}", {"stem": "conv3"}, 32
    return f"timm/{name}", {}, 224


def _vit(states: Mapping[str, Tensor], place: str, heads: int | None) -> tuple[str, dict[str, Any], int]:
    width, _, patch, _ = states["patch_embed.proj.weight"].shape
    depth = _count(states, r"blocks\.(\d+)\.")
    prefix = 1 if "cls_token" in states else 0
    side = math.isqrt(states["pos_embed"].shape[1] - prefix)
    positions = states["pos_embed"].shape[1]
    if side * side + prefix != positions:
        raise CheckpointError(f"{place}: {positions} positions of a ViT are no square of patches and a class token")
    name = VITS.get(width, "vit_base")
    options: dict[str, Any] = {"patch_size": patch, "image_size": side * patch}
    standard = {192: (12, 3), 384: (12, 6), 768: (12, 12), 1024: (24, 16)}.get(width)
    if standard is None or standard[0] != depth:
        options |= {"depth": depth}
    if standard is None:
        options |= {"embed_dim": width}
    wanted = heads or width // HEAD_WIDTH
    if standard is None or standard[1] != wanted:
        options["num_heads"] = wanted
    if "blocks.0.attn.qkv.bias" not in states:
        options["qkv_bias"] = False
    if "blocks.0.ls1.gamma" in states:
        options["init_values"] = 1e-5
    if "norm.weight" not in states and "fc_norm.weight" in states:
        options["global_pool"] = "avg"
    return f"timm/{name}_patch16_224", options, side * patch


def _count(states: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(match[1]) for key in states if (match := re.match(pattern, key))}
    return len(found)
