"""Projection and prediction heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lgrep.errors import ConfigError, did_you_mean

NORMS = ("batch", "layer", "none")
ACTIVATIONS = ("relu", "gelu")


class MLPHead(nn.Sequential):
    """Linear -> norm -> activation for every layer but the last, which is a Linear alone.

    The defaults are StableRep's projector, used on the CLS feature. Linear layers and norms keep torch's
    initialisation (BatchNorm: eps 1e-5, momentum 0.1). To share batch statistics between processes, convert
    the whole model with `lgrep.backbones.norm.convert_batchnorm`.

    Args:
        in_dim: width of the features, [N, in_dim].
        dims: widths of the layers, the last being that of the output.
        bias: biases of the Linear layers.
        last_bias: of the last one; None: like the others.
        norm: `batch`, `layer` or `none`.
        last_norm: the norm also after the last Linear (SimSiam's projector).
        last_affine: whether that last norm has a scale and a shift (Barlow Twins and MoCo v3: not).
        activation: `relu` or `gelu`.
        init_std: standard deviation of truncated normal weights, with zero biases; None: torch's initialisation.

    Attributes:
        out_dim: width of the output, [N, out_dim].

    Raises:
        ConfigError: no or non-positive widths, an unknown norm, or `last_norm` without a norm.

    Paper:
        Tian et al., StableRep, 2023, https://arxiv.org/abs/2306.00984.

    >>> head = MLPHead(8, dims=(16, 16, 4), bias=False)
    >>> [name for name, _ in head.named_children()]
    ['linear1', 'norm1', 'relu1', 'linear2', 'norm2', 'relu2', 'linear3']
    >>> head(torch.randn(6, 8)).shape, head.out_dim
    (torch.Size([6, 4]), 4)
    """

    def __init__(
        self,
        in_dim: int,
        dims: Sequence[int] = (4096, 4096, 256),
        bias: bool = True,
        norm: str = "batch",
        last_norm: bool = False,
        last_affine: bool = True,
        activation: str = "relu",
        last_bias: bool | None = None,
        init_std: float | None = None,
    ) -> None:
        if norm not in NORMS:
            raise ConfigError(f"Unknown norm {norm!r} of a head; {did_you_mean(norm, NORMS)} Type e.g. norm=batch.")
        if activation not in ACTIVATIONS:
            raise ConfigError(f"Unknown activation {activation!r} of a head; {did_you_mean(activation, ACTIVATIONS)}")
        if last_norm and norm == "none":
            raise ConfigError("last_norm=true needs a norm; type norm=batch or norm=layer, or last_norm=false.")
        if not dims or min(in_dim, *dims) < 1:
            raise ConfigError(
                f"A head needs one or more positive widths, got in_dim={in_dim}, dims={list(dims)}; "
                "type e.g. dims=[4096,4096,256]."
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (width_in, width_out) in enumerate(zip((in_dim, *dims), dims, strict=False), start=1):
            last = number == len(dims)
            biased = bias if last_bias is None or not last else last_bias
            layers[f"linear{number}"] = nn.Linear(width_in, width_out, bias=biased)
            if init_std is not None:
                _truncated_normal(layers[f"linear{number}"], init_std)
            if norm != "none" and (last_norm or not last):
                affine = last_affine or not last
                layers[f"norm{number}"] = (
                    nn.BatchNorm1d(width_out, affine=affine)
                    if norm == "batch"
                    else nn.LayerNorm(width_out, elementwise_affine=affine)
                )
            if not last:
                layers[f"{activation}{number}"] = nn.ReLU(inplace=True) if activation == "relu" else nn.GELU()
        super().__init__(layers)
        self.out_dim = dims[-1]

    @property
    def kinds(self) -> dict[str, str]:
        """Its layers by name: `linear`, `batch`, `layer`, `relu` or `gelu`; with its weights, all that rebuilds it."""
        kinds = {name: name.rstrip("0123456789") for name, _ in self.named_children()}
        for name, kind in kinds.items():
            if kind == "norm":
                kinds[name] = "batch" if hasattr(self.get_submodule(name), "running_mean") else "layer"
        return kinds


class TrexProjector(nn.Module):
    """Unit length -> (Linear -> BatchNorm -> GELU) x hidden layers -> Linear without bias (t-ReX).

    Args:
        in_dim: width of the features, [N, in_dim].
        hidden_layers: 0 leaves one linear map.
        hidden_dim: width of the hidden layers.
        out_dim: width of the output.
        normalise_input: whether features are scaled to unit length first.

    Paper:
        Sariyildiz et al., t-ReX, 2023, https://arxiv.org/abs/2206.15369, section 3.
    """

    def __init__(
        self, in_dim: int, hidden_layers: int, hidden_dim: int, out_dim: int, normalise_input: bool = True
    ) -> None:
        super().__init__()
        self.normalise_input = normalise_input
        layers: list[nn.Module] = []
        for number in range(hidden_layers):
            layers += [nn.Linear(hidden_dim if number else in_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.GELU()]
        layers.append(nn.Linear(hidden_dim if hidden_layers else in_dim, out_dim, bias=False))
        for layer in layers:
            if isinstance(layer, nn.Linear):
                _truncated_normal(layer, 0.02)
        self.layers = nn.Sequential(*layers)
        self.out_dim = out_dim

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_dim] to [N, out_dim], not normalised."""
        output: Tensor = self.layers(normalize(features, dim=1) if self.normalise_input else features)
        return output


def _truncated_normal(layer: nn.Module, std: float) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.trunc_normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def apply_per_view(head: nn.Module, features: Tensor, num_views: int) -> Tensor:
    """Calls `head` once per view, so that batch statistics are those of one view.

    Running statistics are updated `num_views` times, in the order of the views, as in StableRep.

    Args:
        head: [B, D] -> [B, E].
        features: [V * B, D], view-major: row v * B + b is anchor b in view v.
        num_views: V >= 1.

    Returns:
        [V * B, E], view-major.

    Raises:
        ValueError: the rows cannot be split into V equal views.

    >>> apply_per_view(nn.Linear(3, 2), torch.zeros(8, 3), num_views=4).shape
    torch.Size([8, 2])
    """
    if num_views < 1 or features.shape[0] % num_views:
        raise ValueError(
            f"{features.shape[0]} rows cannot be split into {num_views} equal views; features must be [V * B, D]."
        )
    if num_views == 1:
        output: Tensor = head(features)
        return output
    return torch.cat([head(view) for view in features.chunk(num_views)])
