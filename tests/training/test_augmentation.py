"""Where the augmentation runs, and that it makes no difference to a training on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgrep.config.compose import compose_config
from lgrep.errors import ConfigError
from lgrep.training.augmentation import augments_in_workers
from lgrep.training.resolve import resolve
from training.runs import assert_equal, overrides, run, state


def place(*arguments: str) -> tuple[bool, str]:
    return augments_in_workers(resolve(*compose_config("train", list(arguments))).config)


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_a_gpu_augments_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, accelerator: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = f"trainer.accelerator={accelerator}"
    assert place(chosen)[0] is False and "on the GPU" in place(chosen)[1]
    assert place(chosen, "augment.device=gpu")[0] is False
    assert place(chosen, "augment.device=cpu") == (True, "in the loading processes, as augment.device=cpu says")
    assert "training process" in place("trainer.accelerator=cpu")[1]


def test_without_a_gpu_the_training_process_augments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert place()[0] is False and "training process" in place()[1]
    with pytest.raises(
        ConfigError, match=r"training runs on the CPU \(trainer.accelerator=auto\).*augment.device=auto"
    ):
        place("augment.device=gpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_processes_that_augment_train_the_same_weights(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    states = []
    for number, more in enumerate(([], ["augment.device=cpu", f"loader.workers={workers}", "loader.cache_mb=1"])):
        run(overrides(tmp_path / "set", tmp_path / f"runs{number}", "duration.steps=4", *more))
        states.append(state(tmp_path / f"runs{number}"))
    assert_equal(*states)
    assert "in the loading processes, as augment.device=cpu says" in capsys.readouterr().out
