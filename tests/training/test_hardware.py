"""Recipes for machines that are not there."""

import pytest
import torch

from lgrep.config.compose import compose_config
from lgrep.errors import ConfigError
from lgrep.training.hardware import check_hardware
from lgrep.training.resolve import Resolved, resolve


def resolved(*overrides: str) -> Resolved:
    return resolve(*compose_config("train", overrides))


def test_hardware_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = resolved("+experiment=stablerep_cc12m").config.trainer
    for name in ("NODE_RANK", "SLURM_NTASKS", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for there, message in (
        (0, r"no GPU that torch can use\. Type trainer\.accelerator=auto trainer\.devices=1 trainer\.num_nodes=1"),
        (2, r"trainer\.devices=8, but this machine has 2 GPU\(s\)\. Type trainer\.devices=2"),
        (8, r"trainer\.num_nodes=4, but nothing has started.*srun or torchrun.*trainer\.num_nodes=1"),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        with pytest.raises(ConfigError, match=message):
            check_hardware(trainer)
    monkeypatch.setenv("NODE_RANK", "0")
    check_hardware(trainer)
    check_hardware(resolved("+experiment=stablerep_emoji").config.trainer)
