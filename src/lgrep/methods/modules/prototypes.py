"""Learned prototypes, and DINO's head that ends in them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.init import trunc_normal_


class Prototypes(nn.Linear):
    """K directions; `forward` gives cosine scores [N, K] of unit embeddings.

    Args:
        dim: width D.
        count: K.

    Paper:
        Caron et al., SwAV, 2020, https://arxiv.org/abs/2006.09882.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__(dim, count, bias=False)
        self.unit_length()

    @torch.no_grad()
    def unit_length(self) -> None:
        """Scales every prototype to length 1; called before each step."""
        self.weight.copy_(normalize(self.weight, dim=1))


class DinoHead(nn.Module):
    """MLP -> unit length -> weight-normalised prototypes; no BatchNorm.

    Args:
        in_dim: width of the features, [N, in_dim].
        prototypes: K.
        hidden_dim: of the MLP's two hidden layers (GELU).
        bottleneck_dim: of the MLP's output.
        learn_gain: whether the length of the prototypes is learned (iBOT in SynCLR) or fixed at 1 (DINO).

    Paper:
        Caron et al., DINO, 2021, https://arxiv.org/abs/2104.14294, appendix C.
    """

    def __init__(
        self,
        in_dim: int,
        prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        learn_gain: bool = False,
    ) -> None:
        super().__init__()
        widths = (in_dim, hidden_dim, hidden_dim, bottleneck_dim)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            linear = nn.Linear(width_in, width_out)
            trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck_dim))
        nn.init.kaiming_uniform_(self.prototypes, a=5**0.5)
        self.gain = nn.Parameter(torch.ones(prototypes), requires_grad=learn_gain)

    def forward(self, features: Tensor) -> Tensor:
        """Scores [N, K]."""
        embeddings = normalize(self.mlp(features), dim=1)
        return embeddings @ (self.gain[:, None] * normalize(self.prototypes, dim=1)).T
