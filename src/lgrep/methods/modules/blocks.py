"""The repeated units of a network: residual blocks, transformer layers."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lgrep.methods.modules.chunks import restoring_statistics

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The smallest units, each of several layers, that a network holds in lists.

    Blocks of timm's, torchvision's and open_clip's ResNets, ViTs, ConvNeXts and text transformers are found.

    >>> import torchvision
    >>> len(blocks_of(torchvision.models.resnet18()))
    8
    """
    blocks: list[nn.Module] = []
    for child in network.children():
        inside = blocks_of(child)
        if (
            not inside
            and isinstance(network, _CONTAINERS)
            and _layers(child) > 1
            and not isinstance(child, _CONTAINERS)
        ):
            inside = [child]
        blocks += inside
    return blocks


def _layers(module: nn.Module) -> int:
    return sum(any(True for _ in layer.parameters(recurse=False)) for layer in module.modules())


def checkpoint_activations(network: nn.Module) -> int:
    """Blocks forget what happens inside them and compute it again in the backward pass, in place.

    Random numbers are drawn again alike, and BatchNorm does not count the second time. Blocks keep their identity:
    names, state-dict keys and hooks are untouched.

    Args:
        network: backbone or text tower.

    Returns:
        How many blocks were found.

    Paper:
        Chen et al., 2016, https://arxiv.org/abs/1604.06174.
    """
    blocks = blocks_of(network)
    for block in blocks:
        block.__class__ = _checkpointed(type(block))  # type: ignore[arg-type]
    return len(blocks)


@cache
def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """The class with another `forward`; a class, so that copies of the module keep it."""

    class Checkpointed(kind):  # type: ignore[valid-type, misc]
        def forward(self, *inputs: Any, **options: Any) -> Tensor:
            if not self.training:
                output: Tensor = super().forward(*inputs, **options)
                return output
            extra: dict[str, Any] = {}
            if any(isinstance(layer, _BatchNorm) for layer in self.modules()):
                extra["context_fn"] = restoring_statistics(self)
            again: Tensor = checkpoint(super().forward, *inputs, use_reentrant=False, **extra, **options)
            return again

    Checkpointed.__name__ = Checkpointed.__qualname__ = f"Checkpointed{kind.__name__}"
    return Checkpointed
