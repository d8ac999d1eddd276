"""Encoders of files that others published, without executing anything in them."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lgrep.checkpoints.architecture import find_architecture
from lgrep.checkpoints.formats import FORMATS, encoder_of
from lgrep.checkpoints.seal import damage
from lgrep.errors import CheckpointError

# What training scripts keep beside weights. Their reconstruction sets values and runs nothing else.
_PLAIN: list[Any] = [argparse.Namespace, np.dtype, np.ndarray, type(np.dtype(np.float64)), type(np.dtype(np.float32)),
          type(np.dtype(np.int64)), type(np.dtype(np.int32)), type(np.dtype(np.bool_))]  # fmt: skip
MOCO_WIDTH = 384  # of the ViT-S that comes with 6 or 12 heads
BICUBIC = ("trex", "mae", "dino", "moco_v3", "synclr")  # whose authors evaluate with bicubic resizing


@dataclass
class Published:
    """An encoder from a foreign file.

    Attributes:
        backbone: registry name.
        options: of `build_backbone`.
        image_size: side in px that it was made for.
        states: its weights, in the names of the backbone.
        left_out: names in the file that are no part of the encoder.
        kind: key of `FORMATS`.
        interpolation: with which its authors resize pictures.
    """

    backbone: str
    options: dict[str, Any]
    image_size: int
    states: dict[str, Tensor]
    left_out: list[str]
    kind: str
    interpolation: str = "bilinear"


def read_published(
    path: str | Path,
    kind: str = "auto",
    backbone: str | None = None,
    content: Mapping[str, Any] | None = None,
    heads: int | None = None,
) -> Published:
    """Read a published file.

    Args:
        path: `.pth`, `.pt`, `.ckpt`, `.tar` of torch, or `.safetensors`.
        kind: key of `lgrep.checkpoints.formats.FORMATS`; `auto` finds it by the names in the file.
        backbone: registry name, where the network cannot be told from names and shapes.
        content: what is in the file, if it was read already.
        heads: attention heads of a ViT, where the file does not tell them.

    Raises:
        CheckpointError: damaged, holding other objects than tensors and plain values, or with names of no known kind.
    """
    path = Path(path)
    content = read_plain(path) if content is None else content
    found = kind if kind != "auto" else kind_of(content, path.name)
    states, left = encoder_of(content, found, path.name)
    if backbone is None:
        width = states["patch_embed.proj.weight"].shape[0] if "patch_embed.proj.weight" in states else 0
        backbone, options, size = find_architecture(states, path.name, _heads(found, content, width, heads, path.name))
    else:
        options, size = {}, 224
    interpolation = "bicubic" if found in BICUBIC else "bilinear"
    return Published(backbone, options, size, states, left, found, interpolation)


def kind_of(content: Mapping[str, Any], place: str) -> str:
    """The first format that reads the whole file.

    Raises:
        CheckpointError: none does.
    """
    closest: tuple[int, str] = (0, "")
    for kind in FORMATS:
        reached = 0
        try:
            states, _ = encoder_of(content, kind, place)
            reached = 2
            find_architecture(states, place)
        except CheckpointError as error:
            reached = reached or int("no known part" in str(error))
            closest = max(closest, (reached, f" As {kind}: {error}."), key=lambda entry: entry[0])
        else:
            return kind
    detail = closest[1] if closest[0] else f" It has {', '.join(sorted(map(str, content))[:5]) or 'nothing'}."
    raise CheckpointError(
        f"{place} is of no known kind ({', '.join(FORMATS)}).{detail} "
        "scripts/convert_checkpoint.py --format NAME --backbone NAME reads it as what you say"
    )


def _heads(kind: str, content: Mapping[str, Any], width: int, told: int | None, place: str) -> int | None:
    """Attention heads of a ViT, where its width does not say it."""
    if told is not None or kind != "clip_rocket" or width != MOCO_WIDTH:
        return told or (FORMATS[kind].heads or {}).get(width)
    args = content.get("args", {})
    model = str(args.get("model", "") if isinstance(args, Mapping) else getattr(args, "model", ""))
    if "VITS" not in model:
        raise CheckpointError(
            f"{place}: CLIP-rocket's ViT-S has 6 heads, or 12 as in MoCo v3, and the file does not say which. "
            "Type scripts/convert_checkpoint.py --heads 12 (or 6)"
        )
    return 12 if "MOCO" in model else 6


def read_plain(path: Path) -> dict[str, Any]:
    """The dict in a file of weights: tensors and plain values, nothing that runs.

    Raises:
        CheckpointError: missing, damaged, or holding other objects.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if (problem := damage(path)) is not None:
        raise CheckpointError(f"{path} is damaged: {problem}. A run keeps earlier states beside it (step-*.ckpt)")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = str(error).split("GLOBAL ")[-1].split()[0] if "GLOBAL " in str(error) else "an object"
        raise CheckpointError(
            f"{path} is damaged, or holds objects besides tensors and plain types ({name}), which are never loaded"
        ) from error
    except Exception as error:  # readers raise almost anything on broken files
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{path} cannot be read as a checkpoint, it may be cut off: {line}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content
