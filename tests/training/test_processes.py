"""Two processes equal one at the same global batch, BatchNorm included (promise 1)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from lgrep.errors import ConfigError
from training.runs import only_run, overrides, run, script, start, state

# A bias before BatchNorm has gradient zero up to rounding, which Adam's default eps of 1e-8 would blow up.
DOUBLE = ("trainer.precision=64-true", "duration.steps=5", "trainer.log_every_n_steps=1", "optimizer.eps=1e-5")


@pytest.mark.ddp
@pytest.mark.parametrize("method", ["stablerep", "simclr"])
def test_two_processes_equal_one(tmp_path: Path, method: str) -> None:
    """Five anchors per batch, so that the two ranks hold two and three."""
    losses = {}
    for devices in (1, 2):
        runs = tmp_path / f"devices{devices}"
        arguments = overrides(tmp_path / "data", runs, *DOUBLE, f"method={method}", f"trainer.devices={devices}")
        if devices == 1:
            assert run(arguments)["finished"]
        else:
            done = start([script(tmp_path), *arguments])
            assert done.returncode == 0, done.stderr
        rows = csv.DictReader((only_run(runs) / "metrics.csv").open())
        losses[devices] = [float(row["train/loss"]) for row in rows]
    assert len(losses[1]) == 5
    assert losses[1] == pytest.approx(losses[2], rel=1e-10)
    one, two = (state(tmp_path / f"devices{devices}") for devices in (1, 2))
    assert next(iter(one["state_dict"].values())).dtype == torch.float64
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-9, msg=name)
    for first, second in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        for key, moments in first["state"].items():
            torch.testing.assert_close(second["state"][key]["exp_avg"], moments["exp_avg"], rtol=1e-7, atol=1e-12)


def test_more_processes_than_anchors_is_said_before_they_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *_, **__: pytest.fail("processes were started"))
    with pytest.raises(ConfigError, match=r"at least their number, 6\. Type loader\.batch_size=6 or more"):
        run(overrides(tmp_path / "data", tmp_path / "runs", "trainer.devices=6"))
