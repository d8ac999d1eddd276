"""A batch whose pictures pass the backbone in pieces: the same step as the whole batch, with less memory."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from training.runs import assert_equal, only_run, overrides, run, script, start, state

from lgrep.data.batch import Batch
from lgrep.errors import ConfigError
from lgrep.methods.modules.chunks import encode_in_chunks

SMALL = ("+backbone.options.depth=1", "+backbone.options.embed_dim=12", "+backbone.options.num_heads=2")
VIT = ("backbone=vit_tiny_small", *SMALL, "optimizer.eps=1e-5")
DOUBLE = ("trainer.precision=64-true", "duration.steps=4", "trainer.log_every_n_steps=1")


def losses(runs: Path) -> list[float]:
    with (only_run(runs) / "metrics.csv").open() as handle:
        return [float(row["train/loss"]) for row in csv.DictReader(handle)]


@pytest.mark.parametrize("method", ["stablerep", "simclr"])
@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_pieces_train_like_the_whole(tmp_path: Path, method: str, chunk: int) -> None:
    """Device augmentation included; the head's BatchNorm sees the whole batch."""
    for name, size in (("whole", "null"), ("pieces", chunk)):
        arguments = (
            *VIT,
            *DOUBLE,
            f"method={method}",
            f"trainer.chunk_size={size}",
        )
        assert run(overrides(tmp_path / "data", tmp_path / name, *arguments))["finished"]
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "whole"), rel=1e-12)
    one, other = (state(tmp_path / name)["state_dict"] for name in ("whole", "pieces"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-11, msg=name)


@pytest.mark.ddp
def test_two_processes_with_uneven_pieces_equal_one(tmp_path: Path) -> None:
    """Five anchors over two ranks, two at a time: one piece against two."""
    for devices in (1, 2):
        arguments = (*VIT, *DOUBLE, "trainer.chunk_size=2", f"trainer.devices={devices}")
        whole = overrides(tmp_path / "data", tmp_path / str(devices), *arguments)
        if devices == 1:
            assert run(whole)["finished"]
        else:
            done = start([script(tmp_path), *whole])
            assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), rel=1e-10)


def test_a_network_with_batchnorm_is_refused_unless_accepted(tmp_path: Path) -> None:
    arguments = overrides(tmp_path / "data", tmp_path / "runs", "trainer.chunk_size=2")
    with pytest.raises(ConfigError, match=r"test_resnet has BatchNorm.*Type trainer\.chunk_bn=true"):
        run(arguments)
    with pytest.raises(ConfigError, match=r"Type trainer\.sync_batchnorm=false"):
        run([*arguments, "trainer.chunk_bn=true", "trainer.devices=2"])
    assert run([*arguments, "trainer.chunk_bn=true", "duration.steps=3", "loader.batch_size=4"])["finished"]
    counted = state(tmp_path / "runs")["state_dict"]["backbone.bn1.num_batches_tracked"]
    assert int(counted) == 3 * 2 * 2  # steps, views, pieces: recomputing does not count


def test_resuming_with_pieces_changes_nothing(tmp_path: Path) -> None:
    arguments = (*VIT, "trainer.chunk_size=2", "duration.steps=5", "checkpoint.every_n_steps=2")
    assert run(overrides(tmp_path / "data", tmp_path / "whole", *arguments))["finished"]
    entry, parts = script(tmp_path), overrides(tmp_path / "data", tmp_path / "parts", *arguments)
    assert start([entry, *parts], kill_at=3).returncode == -9
    assert start([entry, *parts]).returncode == 0
    assert_equal(state(tmp_path / "parts"), state(tmp_path / "whole"))


class Net(nn.Module):
    """Remembers how many pictures it saw at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.seen = nn.Linear(12, 6), nn.Dropout(0.5), []

    def forward(self, pictures):
        self.seen.append(len(pictures))
        return self.dropout(self.layer(pictures.flatten(1)).relu())


def test_dropout_is_the_same_in_both_runs_of_a_piece() -> None:
    """The gradient belongs to the mask that made the features: dead units get none, the others a known one."""
    torch.manual_seed(3)
    net, pictures = Net(), torch.randn(7, 3, 2, 2)
    batch = Batch([pictures], *torch.zeros(3, 1, 7, dtype=torch.long), chunk=3)
    batch.render = lambda of, view, number: of.views[view][number * 3 : number * 3 + 3]
    features = encode_in_chunks(net, batch)
    features.sum().backward()
    alive = (features > 0).float() * 2  # dropout doubles what it keeps
    torch.testing.assert_close(net.layer.bias.grad, alive.sum(0))
    torch.testing.assert_close(net.layer.weight.grad, alive.T @ pictures.flatten(1))
    assert net.seen == [3, 3, 1, 1, 3, 3] or sorted(net.seen) == [1, 1, 3, 3, 3, 3]


def test_activations_of_one_piece_at_a_time() -> None:
    kept: list[int] = []
    net, pictures = Net(), torch.randn(8, 3, 2, 2)
    batch = Batch([pictures], *torch.zeros(3, 1, 8, dtype=torch.long), chunk=2)
    batch.render = lambda of, view, number: of.views[view][number * 2 : number * 2 + 2]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        encode_in_chunks(net, batch)
    assert max(kept, default=0) == 0 or sum(kept) < 8 * 6
