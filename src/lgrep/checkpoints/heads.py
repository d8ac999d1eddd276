"""Heads rebuilt from the weights in a checkpoint, and encoders whose features include a head's output."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lgrep.checkpoints.strict import below, load_strictly
from lgrep.errors import CheckpointError, ConfigError

FEATURES = ("backbone", "projector", "both")
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
PROJECTOR = "projector"


def split_features(name: str) -> tuple[str, str]:
    """What a model's name says: the model, and which of its features.

    >>> split_features("runs/simclr:both"), split_features("runs/simclr")
    (('runs/simclr', 'both'), ('runs/simclr', 'backbone'))
    """
    model, _, chosen = name.rpartition(":")
    return (model, chosen) if model and chosen in FEATURES else (name, "backbone")


class Projected(nn.Module):
    """An encoder with its method's projector (SimCLR v2 keeps part of the head in it, arXiv 2006.10029).

    Args:
        backbone: pictures [B, 3, H, W] -> [B, D].
        projector: [B, D] -> [B, E].
        both: features are [B, D + E], the two side by side, each L2-normalised; otherwise the projector's [B, E].

    Attributes:
        dim: E or D + E.
        name, options: of the backbone.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, both: bool) -> None:
        super().__init__()
        self.backbone, self.projector, self.both = backbone, projector, both
        self.name, self.options = backbone.name, backbone.options
        with torch.no_grad():
            width = int(projector(torch.zeros(1, int(backbone.dim))).shape[1])  # type: ignore[arg-type]
        self.dim = width + (int(backbone.dim) if both else 0)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """Shown beside the layers, and part of what names the network in records."""
        return f"both={self.both}"

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.backbone(pictures)
        projected: Tensor = self.projector(features)
        if not self.both:
            return projected
        return torch.cat([normalize(features, dim=1), normalize(projected, dim=1)], dim=1)


def with_projector(
    backbone: nn.Module, about: Mapping[str, Any], states: Mapping[str, Tensor], chosen: str, file: object
) -> nn.Module:
    """The encoder of a checkpoint of this project with the features that are asked for.

    Args:
        backbone: with its weights, in evaluation mode.
        about: the checkpoint's description of itself.
        states: the checkpoint's weights.
        chosen: one of `FEATURES`.
        file: named in errors.

    Raises:
        ConfigError: its method has no projector that can be rebuilt.
        CheckpointError: a damaged projector.
    """
    if chosen == "backbone":
        return backbone
    layers = about.get(PROJECTOR)
    if not isinstance(layers, Mapping) or not layers:
        raise ConfigError(
            f"{file}:{chosen}: this checkpoint has no projector ({about.get('method', 'unknown method')}). Type {file}"
        )
    projector = rebuilt_head(PROJECTOR, states, layers).eval()
    try:
        return Projected(backbone, projector, chosen == "both")
    except RuntimeError as error:
        raise CheckpointError(f"the projector in {file} does not fit its backbone: {error}") from error


def rebuilt_head(prefix: str, states: Mapping[str, Tensor], layers: Mapping[str, str]) -> nn.Module:
    """A head with its weights.

    Args:
        prefix: of its names in `states`, without the dot.
        states: the checkpoint's weights, which give the widths, biases and scales.
        layers: kinds by name in their order: `linear`, `batch`, `layer`, `relu` or `gelu`; one linear layer when empty.

    Raises:
        CheckpointError: weights and layers that do not fit together.
    """
    own = below(states, f"{prefix}.")
    try:
        if layers:
            head: nn.Module = nn.Sequential(_made(own, layers))
        else:
            head = _linear(own, "")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"its head '{prefix}' is incomplete ({type(error).__name__}: {error})") from error
    load_strictly(head, own, prefix)
    return head


def guessed_layers(prefix: str, states: Mapping[str, Tensor], activation: str) -> dict[str, str]:
    """Kinds of the layers of a head, from the names and shapes of its weights: linear -> norm -> activation.

    Raises:
        ConfigError: another kind of head.
    """
    own = below(states, f"{prefix}.")
    if set(own) - {"bias"} == {"weight"} and own["weight"].ndim == 2:
        return {}
    if not own or not all(key.startswith(("linear", "norm")) for key in own):
        raise ConfigError(f"its head '{prefix}' is neither a linear layer nor an MLP (weights: {sorted(own)[:4]})")
    layers: dict[str, str] = {}
    last = max(int(key.split(".")[0].removeprefix("linear")) for key in own if key.startswith("linear"))
    for number in range(1, last + 1):
        layers[f"linear{number}"] = "linear"
        if any(key.startswith(f"norm{number}.") for key in own):
            layers[f"norm{number}"] = "batch" if f"norm{number}.running_mean" in own else "layer"
        if number < last:
            layers[f"{activation}{number}"] = activation
    return layers


def _made(states: Mapping[str, Tensor], layers: Mapping[str, str]) -> OrderedDict[str, nn.Module]:
    made: OrderedDict[str, nn.Module] = OrderedDict()
    width = 0
    for name, kind in layers.items():
        if kind == "linear":
            made[name] = _linear(states, f"{name}.")
            width = len(states[f"{name}.weight"])
        elif kind == "batch":
            made[name] = nn.BatchNorm1d(width, affine=f"{name}.weight" in states)
        elif kind == "layer":
            made[name] = nn.LayerNorm(width, elementwise_affine=f"{name}.weight" in states)
        else:
            made[name] = _ACTIVATIONS[kind]()
    return made


def _linear(states: Mapping[str, Tensor], prefix: str) -> nn.Linear:
    out, width = states[f"{prefix}weight"].shape
    return nn.Linear(width, out, bias=f"{prefix}bias" in states)
