"""Where the augmentation runs."""

from __future__ import annotations

import torch

from lgrep.config.schema import TrainConfig
from lgrep.errors import ConfigError


def augments_in_workers(config: TrainConfig) -> tuple[bool, str]:
    """Whether the loading processes apply the whole recipe, and why, in a few words.

    `auto` follows what was measured (`docs/speed.md`): a loading process needs as long for it as for decoding and
    cropping, and floats take four times the shared memory of bytes, which costs more still. So the training process does
    it: a GPU with a few kernels for the whole batch, a CPU picture by picture.

    Raises:
        ConfigError: `augment.device=gpu` for a training on the CPU.
    """
    asked, gpu = config.augment.device, _trains_on_gpu(config.trainer.accelerator)
    if asked == "gpu" and not gpu:
        raise ConfigError(
            f"augment.device=gpu, but the training runs on the CPU (trainer.accelerator={config.trainer.accelerator}). "
            "Type augment.device=auto"
        )
    if asked == "auto":
        if gpu:
            return False, "on the GPU: it would take loading processes as long as decoding and cropping"
        return False, "in the training process: floats from loading processes would cost more than it does"
    return (
        asked == "cpu",
        f"{'in the loading processes' if asked == 'cpu' else 'on the GPU'}, as augment.device={asked} says",
    )


def _trains_on_gpu(accelerator: str) -> bool:
    if accelerator == "auto":
        return torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator != "cpu"
