"""Whether this machine, and the network, can do what the configuration asks for."""

from __future__ import annotations

import os

import torch
from pytorch_lightning.plugins import environments

from lgrep.backbones import Backbone
from lgrep.config.schema import Trainer
from lgrep.errors import ConfigError
from lgrep.methods.modules.chunks import has_batchnorm

_LAUNCHERS = ("SLURMEnvironment", "TorchElasticEnvironment", "LSFEnvironment", "MPIEnvironment")
ONE_PROCESS = "trainer.accelerator=auto trainer.devices=1 trainer.num_nodes=1 trainer.strategy=auto"


def check_hardware(trainer: Trainer) -> None:
    """Refuse more GPUs than there are, several machines without a launcher, and precisions that a strategy lacks.

    Raises:
        ConfigError: says what there is and what to type.
    """
    if trainer.accelerator in ("gpu", "cuda"):
        there = torch.cuda.device_count() or (torch.backends.mps.is_available() and trainer.accelerator == "gpu")
        if not there:
            raise ConfigError(
                f"trainer.accelerator={trainer.accelerator}, but this machine has no GPU that torch can use. Type "
                f"{ONE_PROCESS} trainer.precision=32-true for one process, and a loader.batch_size that it can hold"
            )
        if isinstance(trainer.devices, int) and trainer.devices > there:
            raise ConfigError(
                f"trainer.devices={trainer.devices}, but this machine has {int(there)} GPU(s). Type trainer.devices="
                f"{int(there)} with a loader.batch_size (anchors of all processes) that they can hold"
            )
    if trainer.strategy == "fsdp2" and trainer.precision == "16-mixed":
        raise ConfigError(
            "trainer.strategy=fsdp2 divides the gradients, which a gradient scaler cannot judge. "
            "Type trainer.precision=bf16-mixed"
        )
    if trainer.strategy == "ddp_static" and trainer.accumulate > 1:
        raise ConfigError(
            f"trainer.strategy=ddp_static does not go with trainer.accumulate={trainer.accumulate}, whose micro-batches leave "
            "out the exchange of gradients. Type trainer.strategy=auto"
        )
    # Without a launcher Lightning would start this machine's processes and wait for the other machines for ever.
    launched = "NODE_RANK" in os.environ or any(getattr(environments, name).detect() for name in _LAUNCHERS)
    if trainer.num_nodes > 1 and not launched:
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}, but nothing has started this program on {trainer.num_nodes} "
            "machines. Start it with srun or torchrun there, or type trainer.num_nodes=1 with a smaller loader.batch_size"
        )


def check_chunks(trainer: Trainer, backbone: Backbone) -> None:
    """Refuse pieces of a batch for a backbone whose features depend on the other pictures of the batch.

    Raises:
        ConfigError: a backbone with BatchNorm, unless `chunk_bn` accepts it and processes do not share statistics.
    """
    if trainer.chunk_size is None or not has_batchnorm(backbone):
        return
    if not trainer.chunk_bn:
        raise ConfigError(
            f"trainer.chunk_size={trainer.chunk_size}: {backbone.name} has BatchNorm, which would see pieces of the batch. "
            "Type trainer.chunk_bn=true to accept that, or another backbone, such as backbone=vit_small"
        )
    if trainer.sync_batchnorm and trainer.devices != 1:
        raise ConfigError(
            "trainer.chunk_bn=true on several processes, which may hold different numbers of pieces, needs statistics of "
            "each process alone. Type trainer.sync_batchnorm=false"
        )
