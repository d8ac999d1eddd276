"""Batch normalisation over the batch of all processes, on any device."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as _SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


class CrossProcessBatchNorm(_BatchNorm):
    """BatchNorm1d / 2d whose statistics are those of the global batch.

    On CUDA this is torch's synchronised batch norm. On CPU, which torch's refuses, mean and then centred
    variance are summed over the default process group with a differentiable all-reduce, every element
    counting once, so uneven and empty local batches are right. Without a process group, with one process and
    in evaluation it is torch's plain batch norm. Constructor and state-dict keys are those of BatchNorm.

    All processes have to run the layer in the same order.

    Args:
        num_features: channels C of an input [B, C] or [B, C, ...]; the remaining arguments as in torch.

    Raises:
        ValueError: in training, an input of fewer than two dimensions, or one value per channel in all.

    Paper:
        Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167.

    >>> layer = CrossProcessBatchNorm(2)
    >>> layer(torch.tensor([[1.0, 5.0], [3.0, 9.0]])).round().tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] normalised per channel, in the type of the input."""
        self._check_input_dim(input)
        if not (self.training and _num_processes() > 1):
            return super().forward(input)
        factor = self._advance()
        if input.is_cuda:
            return self._forward_cuda(input, factor)
        return self._forward_summed(input, factor)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"BatchNorm needs an input [B, C] or [B, C, ...], got {list(input.shape)}.")

    def _advance(self) -> float | Tensor:
        """Counts the batch and returns its weight in the running statistics."""
        if not self.track_running_stats or self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        return 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum

    def _forward_cuda(self, input: Tensor, factor: float | Tensor) -> Tensor:
        mean, variance = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        group, size = dist.group.WORLD, _num_processes()
        output: Tensor = _SyncBatchNorm.apply(
            input, self.weight, self.bias, mean, variance, self.eps, float(factor), group, size
        )
        return output

    def _forward_summed(self, input: Tensor, factor: float | Tensor) -> Tensor:
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        others = [dim for dim in range(values.ndim) if dim != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        local_count = values.new_tensor([values.numel() // values.shape[1]])

        summed: Tensor = _AllReduceSum.apply(torch.cat([values.sum(others), local_count]))
        count = summed[-1].detach()
        if count < 2:
            raise ValueError(
                f"BatchNorm in training needs two values per channel over all processes, got {int(count)}."
            )
        mean = summed[:-1] / count
        centred = values - mean.view(shape)
        variance: Tensor = _AllReduceSum.apply(centred.square().sum(others)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1), factor)

        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        output = centred * scale.view(shape)
        if self.bias is not None:
            output = output + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor, factor: float | Tensor) -> None:
        if not self.track_running_stats:
            return
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased_variance)):
            if running is not None:
                running.copy_((1 - factor) * running + factor * batch)


class CrossProcessBatchNormAct(CrossProcessBatchNorm):
    """`CrossProcessBatchNorm` in the place of timm's `BatchNormAct2d`: its dropout and activation follow."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] normalised, dropped and activated."""
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


def convert_batchnorm(module: M) -> M:
    """Makes every BatchNorm in `module` a `CrossProcessBatchNorm`, in place.

    Layers keep their identity: parameters, buffers, hooks, names, sharing and training mode are untouched,
    and so are state-dict keys. timm's `BatchNormAct2d` keeps its activation and dropout (torch's own
    conversion loses them). Frozen batch norms, which are no `_BatchNorm`, stay.

    Args:
        module: converted itself if it is a BatchNorm.

    Returns:
        The same object.

    Raises:
        TypeError: a BatchNorm subclass with a forward pass of its own, which would lose it.

    >>> type(convert_batchnorm(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))[1]).__name__
    'CrossProcessBatchNorm'
    """
    replacements = {
        layer: _replacement(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)
    }
    for layer, replacement in replacements.items():
        # changing the class alone keeps hooks and shared references, which a new object would lose
        layer.__class__ = replacement
    return module


def _replacement(name: str, layer: _BatchNorm) -> type[CrossProcessBatchNorm]:
    kind = type(layer)
    if issubclass(kind, CrossProcessBatchNorm):
        return kind
    if kind.forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return CrossProcessBatchNorm
    if kind.__name__ in ("BatchNormAct2d", "SyncBatchNormAct") and hasattr(layer, "act") and hasattr(layer, "drop"):
        return CrossProcessBatchNormAct
    raise TypeError(
        f"Layer {name or '(the module itself)'} is a {kind.__module__}.{kind.__qualname__}, a BatchNorm with a "
        "forward pass of its own that cannot be shared between processes; convertible are torch's BatchNorm "
        "layers and timm's BatchNormAct2d."
    )


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum over processes of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
