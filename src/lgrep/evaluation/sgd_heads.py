"""Many linear classifiers trained by SGD on the same features at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

BN_EPSILON, BN_MOMENTUM = 1e-6, 0.1


class SGDHeads:
    """One softmax classifier per learning rate, without and with an affine-free batch norm before it.

    The weights of all of them are one tensor, so a step is one product with the features and one back. SGD with
    momentum, no weight decay, the learning rates falling to 0 along half a cosine, step by step. The batch norms
    of all classifiers would see the same features and are one.

    Args:
        rates: learning rates of the first step.
        batch_norm: for every group of classifiers, whether it has a batch norm.
        dim: D.
        num_classes: K.
        total_steps: step at which the rates are 0.
        momentum: of SGD.
        init_std: standard deviation of the first weights; biases begin at 0.
        seed: of the first weights.
        device: where they live.
    """

    def __init__(
        self,
        rates: Sequence[float],
        batch_norm: Sequence[bool],
        dim: int,
        num_classes: int,
        total_steps: int,
        momentum: float = 0.9,
        init_std: float = 0.01,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (len(batch_norm), len(rates), num_classes)
        self.weight = (torch.randn(*shape, dim, generator=generator) * init_std).to(device)
        self.bias = torch.zeros(shape, device=device)
        self.velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.rates = torch.tensor(rates, device=device)
        self.batch_norm, self.momentum, self.total_steps, self.steps = tuple(batch_norm), momentum, total_steps, 0
        self.mean, self.variance = torch.zeros(dim, device=device), torch.ones(dim, device=device)

    def logits(self, features: Tensor, training: bool = False) -> Tensor:
        """[groups, rates, N, K] of features [N, D]; batch norm by running statistics, or by those of the batch."""
        out = [self._group(group, inputs) for group, inputs in enumerate(self._inputs(features, training))]
        return torch.stack(out)

    def predict(self, features: Tensor, block: int = 8192) -> Tensor:
        """Long[groups, rates, N]."""
        return torch.cat([self.logits(part).argmax(3) for part in torch.split(features, block)], 2)

    @torch.no_grad()
    def train_step(self, features: Tensor, labels: Tensor) -> None:
        """One step of every classifier on features [B, D] and labels Long[B]."""
        factor = 0.5 * (1.0 + math.cos(math.pi * self.steps / self.total_steps))
        target = functional.one_hot(labels, self.bias.shape[2]).to(features)
        for group, inputs in enumerate(self._inputs(features, training=True)):
            residual = (self._group(group, inputs).softmax(2) - target) / len(labels)
            flat = residual.transpose(1, 2).reshape(-1, len(labels))
            gradients = (flat @ inputs).view_as(self.weight[group]), residual.sum(1)
            for parameter, velocity, gradient in zip((self.weight, self.bias), self.velocity, gradients, strict=True):
                velocity[group].mul_(self.momentum).add_(gradient)
                rates = (factor * self.rates).view(-1, *[1] * (gradient.ndim - 1))
                parameter[group].sub_(rates * velocity[group])
        self.steps += 1

    def _inputs(self, features: Tensor, training: bool) -> list[Tensor]:
        if not any(self.batch_norm):
            return [features for _ in self.batch_norm]
        normed = functional.batch_norm(
            features, self.mean, self.variance, None, None, training, BN_MOMENTUM, BN_EPSILON
        )
        return [normed if norm else features for norm in self.batch_norm]

    def _group(self, group: int, inputs: Tensor) -> Tensor:
        """[rates, N, K]."""
        weight = self.weight[group]
        flat = functional.linear(inputs, weight.flatten(0, 1), self.bias[group].flatten())
        return flat.view(len(inputs), *weight.shape[:2]).transpose(0, 1)
