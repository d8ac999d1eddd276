"""What another setting would make of the network's forward and backward pass: tried, not guessed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lgrep.config.schema import Trainer
from lgrep.data.batch import Batch

SECONDS = 3.0  # for each setting, at most
REPEATS = 5


@dataclass(frozen=True)
class Setting:
    """One way to run the network."""

    precision: torch.dtype | None = None
    channels_last: bool = False
    deterministic: bool = True
    threads: int | None = None


def try_settings(
    backbone: nn.Module,
    batch: Batch,
    trainer: Trainer,
    deterministic: bool,
    cores: int,
    synchronise: Callable[[], None],
) -> dict[str, float]:
    """Override -> seconds with it / seconds as configured, for a forward and backward pass of the backbone.

    Args:
        backbone: of the method; a copy is run.
        batch: of the run, on its device.
        trainer: as configured.
        deterministic: as configured.
        cores: that this process may use.
        synchronise: waits for the device.
    """
    pictures = batch.piece(0, 0).detach()
    if not pictures.is_floating_point():
        return {}
    now = Setting(_autocast(trainer.precision), trainer.channels_last, deterministic)
    try:
        base = _seconds(backbone, pictures, now, synchronise)
        return {
            override: _seconds(backbone, pictures, setting, synchronise) / base
            for override, setting in _alternatives(backbone, pictures.device, trainer.precision, now, cores)
        }
    except (RuntimeError, MemoryError):  # no room for a second copy, or an operation that lacks the precision
        return {}


def _alternatives(
    backbone: nn.Module, device: torch.device, precision: str, now: Setting, cores: int
) -> Iterator[tuple[str, Setting]]:
    if precision == "32-true" and device.type != "mps":
        bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        kind = torch.bfloat16 if bf16 else torch.float16
        yield f"trainer.precision={'bf16' if bf16 else '16'}-mixed", replace(now, precision=kind)
    if not now.channels_last and _is_convolutional(backbone):
        yield "trainer.channels_last=true", replace(now, channels_last=True)
    if now.deterministic and device.type == "cuda":
        yield "deterministic=false", replace(now, deterministic=False)
    if device.type == "cpu" and torch.get_num_threads() < cores:
        yield f"trainer.threads={cores}", replace(now, threads=cores)


def _seconds(backbone: nn.Module, pictures: Tensor, setting: Setting, synchronise: Callable[[], None]) -> float:
    """The shortest of a few passes, the first not counted."""
    layout: Any = torch.channels_last if setting.channels_last else torch.contiguous_format
    network: Any = copy.deepcopy(backbone)
    network = network.to(pictures.device, memory_format=layout).train()
    pictures = pictures.contiguous(memory_format=layout)
    best, began = float("inf"), time.perf_counter()
    with _chosen(setting, pictures.device):
        for repeat in range(REPEATS + 1):
            synchronise()
            start = time.perf_counter()
            with _mixed(setting, pictures.device):
                loss = network(pictures).float().square().mean()
            loss.backward()
            synchronise()
            if repeat:
                best = min(best, time.perf_counter() - start)
                if time.perf_counter() - began > SECONDS:
                    break
    return best


@contextmanager
def _chosen(setting: Setting, device: torch.device) -> Iterator[None]:
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(setting.deterministic, warn_only=True)
    torch.set_num_threads(setting.threads or threads)
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact)


def _mixed(setting: Setting, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if setting.precision is None else torch.autocast(device.type, dtype=setting.precision)


def _autocast(precision: str) -> torch.dtype | None:
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)


def _is_convolutional(backbone: nn.Module) -> bool:
    """Whether it has convolutions besides those that only cut patches."""
    layers = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    return any(layer.kernel_size != layer.stride for layer in layers)
