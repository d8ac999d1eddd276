"""What a step trades for speed or memory: compilation, activation checkpointing, gradient accumulation."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn

from lgrep.backbones.text import TextEncoder
from lgrep.config.schema import Trainer
from lgrep.errors import ConfigError
from lgrep.methods.base import Method
from lgrep.methods.modules.blocks import checkpoint_activations
from lgrep.methods.modules.parts import backbones, networks

_VARIANTS = 64  # of one compiled function: sizes, networks, modes


def apply_trades(method: Method, trainer: Trainer) -> None:
    """Activation checkpointing and compilation of a method that is otherwise complete, in place.

    Raises:
        ConfigError: a backbone without blocks, or nothing that compiles here.
    """
    if trainer.activation_checkpointing:
        if not checkpoint_activations(method.backbone):
            raise ConfigError(
                f"trainer.activation_checkpointing=true: {method.backbone.name} has no blocks. "
                "Type trainer.activation_checkpointing=false trainer.chunk_size=N"
            )
        for tower in [module for module in method.modules() if isinstance(module, TextEncoder)]:
            checkpoint_activations(tower)
    if trainer.compile:
        compile_parts(method, "inductor" if trainer.compile is True else trainer.compile)


def compile_parts(method: Method, backend: str = "inductor") -> list[nn.Module]:
    """Compile backbone, teacher and heads in place: modules, parameters and state-dict keys stay as they are.

    Every size of the input has a compiled function of its own. Random numbers are those of the eager modules.
    In evaluation mode (probes) modules run eagerly: they see other batch sizes, each of which would be compiled.

    Args:
        method: complete, on any device.
        backend: of `torch.compile`.

    Returns:
        The compiled modules.

    Raises:
        ConfigError: inductor without a compiler.
    """
    if backend == "inductor":
        _check_compiler()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    options: dict[str, Any] = {"options": {"fallback_random": True}} if backend == "inductor" else {}
    parts = compiled_parts(method)
    for part in parts:
        part.compile(backend=backend, dynamic=False, **options)
        part._compiled_call_impl = _in_training(part)
    return parts


def compiled_parts(method: Method) -> list[nn.Module]:
    """Modules of a method that are called as a whole and have parameters."""
    opened = [] if method.calls_backbone else backbones(method)
    parts: dict[nn.Module, None] = {}
    for network in networks(method):
        called = network.children() if any(network is backbone for backbone in opened) else [network]
        parts.update((part, None) for part in called if any(True for _ in part.parameters()))
    return list(parts)


def _in_training(module: nn.Module) -> Any:
    compiled = cast(Any, module)._compiled_call_impl

    def call(*inputs: Any, **options: Any) -> Any:
        return (compiled if module.training else module._call_impl)(*inputs, **options)

    return call


def _check_compiler() -> None:
    names = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
    if not any(name and shutil.which(name) for name in names):
        raise ConfigError(
            "trainer.compile=true needs a C++ compiler, and this machine has none. Type trainer.compile=false"
        )
    if torch.cuda.is_available() and find_spec("triton") is None:
        raise ConfigError(
            "trainer.compile=true needs triton on GPUs: pip install triton, or type trainer.compile=false"
        )


def accumulation_warning(method: Method, trainer: Trainer) -> str | None:
    """What to know before micro-batches are accumulated for a loss that compares pictures with each other."""
    if trainer.accumulate == 1 or not (method.compares_pictures or method.language is not None):
        return None
    return (
        f"trainer.accumulate={trainer.accumulate}: this loss compares the pictures of a batch, and sees one micro-batch "
        f"at a time. For negatives from the whole batch type trainer.accumulate=1, {trainer.accumulate} times the "
        "loader.batch_size, and trainer.chunk_size=N for memory"
    )
