"""Online linear probe: arithmetic, state, and equality over ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks.tiny import Fit, TinyData
from lgrep.callbacks import OnlineLinearProbe
from lgrep.callbacks.linear import LinearProbe
from lgrep.errors import CheckpointError


def stream(steps: int, size: int = 24, dim: int = 5, classes: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    centres = 4 * torch.randn(classes, dim, generator=generator)
    batches = []
    for _ in range(steps):
        labels = torch.randint(0, classes, (size,), generator=generator)
        features = 100 + centres[labels] + torch.randn(size, dim, generator=generator)
        labels[::5] = -1
        batches.append((features, labels))
    return batches


def test_first_step_equals_batch_norm_and_linear() -> None:
    [(features, labels)] = stream(1)
    probe = LinearProbe(5, 3, lr=0.01, weight_decay=0.1)
    probe.train_step(features, labels)
    linear = nn.Linear(5, 3)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    norm = nn.BatchNorm1d(5, affine=False, eps=1e-6)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.01, weight_decay=0.1)  # decay of zero biases is zero
    keep = labels >= 0
    nn.functional.cross_entropy(linear(norm(features))[keep], labels[keep]).backward()
    optimizer.step()
    torch.testing.assert_close(probe.weight.detach(), linear.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probe.bias.detach(), linear.bias.detach(), rtol=1e-4, atol=1e-6)


def test_learns_separable_classes_and_ignores_unlabelled() -> None:
    probe = LinearProbe(5, 3, lr=0.05)
    for features, labels in stream(60):
        probe.train_step(features, labels)
    features, labels = stream(61)[-1]
    keep = labels >= 0
    assert (probe.logits(features).argmax(1) == labels)[keep].float().mean() > 0.95
    before = probe.weight.detach().clone()
    fresh = LinearProbe(5, 3, lr=0.05, weight_decay=0.0)
    fresh.train_step(features, torch.full_like(labels, -1))
    assert torch.isfinite(fresh.weight).all() and not fresh.weight.any()
    assert before.any()


def test_running_statistics_follow_the_features() -> None:
    probe = LinearProbe(5, 3, momentum=0.2)
    batches = stream(40)
    for features, labels in batches:
        probe.train_step(features, labels)
    mean, variance = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    for step, (features, _) in enumerate(batches):
        share = max(0.2, 1 / (step + 1))
        mean = (1 - share) * mean + share * features.double().mean(0)
        variance = (1 - share) * variance + share * features.double().var(0, correction=0)
    torch.testing.assert_close(probe.mean.double(), mean, rtol=1e-5, atol=0)
    # batch variances are taken around the batch mean although the sums are centred elsewhere
    torch.testing.assert_close(probe.variance.double(), variance, rtol=1e-4, atol=0)


def test_state_round_trip_is_bit_exact(tmp_path: Path) -> None:
    batches = stream(10)
    whole = LinearProbe(5, 3)
    for features, labels in batches:
        whole.train_step(features, labels)
    first = LinearProbe(5, 3)
    for features, labels in batches[:5]:
        first.train_step(features, labels)
    torch.save(first.state_dict(), tmp_path / "probe.pt")
    second = LinearProbe(5, 3)
    second.load_state_dict(torch.load(tmp_path / "probe.pt", weights_only=True))
    for features, labels in batches[5:]:
        second.train_step(features, labels)
    for name in ("weight", "bias", "mean", "variance"):
        assert torch.equal(getattr(whole, name), getattr(second, name)), name


def test_state_of_other_classes_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"\(3, 5\).*\(4, 5\)"):
        LinearProbe(5, 4).load_state_dict(LinearProbe(5, 3).state_dict())


def test_callback_learns_beside_training(fit: Fit) -> None:
    trainer = fit([OnlineLinearProbe(every_n_steps=15, lr=0.1)], steps=40)
    column = trainer.loggers[0].column("probe/linear_top1")  # type: ignore[union-attr]
    assert list(column) == [14, 29, 39]
    assert column[39] > 0.6


def test_callback_rests_on_unlabelled_data(fit: Fit) -> None:
    callback = OnlineLinearProbe(every_n_steps=1)
    trainer = fit([callback], steps=2, data=TinyData(labelled=False))
    assert callback.state_dict() == {}
    assert not trainer.loggers[0].column("probe/linear_top1")  # type: ignore[union-attr]


def train_rank(rank: int, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    probe = LinearProbe(5, 3)
    for features, labels in batches:
        share = slice(0, 10) if rank == 0 else slice(10, None)  # uneven on purpose
        probe.train_step(features[share], labels[share])
    return probe.state_dict()


def test_two_ranks_equal_one(run_processes: Callable[..., list[Any]]) -> None:
    batches = stream(6)
    ranks = run_processes(train_rank, 2, batches)
    alone = LinearProbe(5, 3)
    for features, labels in batches:
        alone.train_step(features, labels)
    for name in ("weight", "bias", "mean", "variance"):
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], getattr(alone, name).detach(), rtol=1e-4, atol=1e-5)
