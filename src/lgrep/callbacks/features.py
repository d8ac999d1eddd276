"""Features of the probe pictures, computed without a trace in the module or the random state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal
from weakref import WeakKeyDictionary

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

_Part = Literal["gallery", "queries"]
_cache: WeakKeyDictionary[pl.Trainer, tuple[int, dict[str, Tensor]]] = WeakKeyDictionary()


@contextmanager
def frozen(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; modes of all submodules and the random state come back after it."""
    modes = {part: part.training for part in module.modules()}
    devices = [device] if device.type == "cuda" else []
    # no_grad, not inference_mode: a buffer that a backbone makes lazily must stay usable in training
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def embed(
    backbone: nn.Module,
    pictures: Tensor,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device,
    batch_size: int = 256,
) -> Tensor:
    """Features of uint8 pictures in evaluation mode.

    Args:
        backbone: float pictures [B, 3, H, W] -> features [B, D].
        pictures: uint8 [N, 3, H, W] on any device.
        normalise: uint8 -> float32 on the same device.
        device: where the backbone is.
        batch_size: pictures per forward pass.

    Returns:
        float32 [N, D] on `device`.
    """
    parameter = next(backbone.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    with frozen(backbone, device):
        parts = [backbone(normalise(chunk.to(device)).to(dtype)).float() for chunk in torch.split(pictures, batch_size)]
    return torch.cat(parts)


def probe_features(trainer: pl.Trainer, module: pl.LightningModule, part: _Part) -> Tensor:
    """Backbone features of the probe's gallery or queries at the current step, computed once per step.

    Every rank computes them: this needs no communication under DDP and matches the collectives of a
    sharded backbone.

    Returns:
        float32 [N, D] on the module's device.
    """
    step, parts = _cache.get(trainer, (-1, {}))
    if step != trainer.global_step:
        parts = {}
        _cache[trainer] = (trainer.global_step, parts)
    if part not in parts:
        data = trainer.datamodule  # type: ignore[attr-defined]
        parts[part] = embed(module.backbone, getattr(data.probe, part), data.normalise, module.device)  # type: ignore[arg-type]
    return parts[part]


def forget_features(trainer: pl.Trainer) -> None:
    """Drop what `probe_features` keeps (weights may have been loaded)."""
    _cache.pop(trainer, None)


def has_probe(trainer: pl.Trainer) -> bool:
    """Whether the data module brings labelled probe pictures.

    The first call decodes them, so a callback asks when the training starts: pictures that cannot be read
    end the run there.
    """
    return getattr(getattr(trainer, "datamodule", None), "probe", None) is not None
