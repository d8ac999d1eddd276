"""Schedules against the published rules, written as those are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lgrep.errors import ConfigError
from lgrep.optim import scaled_lr, warmup_cosine, warmup_cosine_scheduler


def stablerep_rate(fractional_epoch, lr, min_lr, warmup_epochs, epochs):
    if fractional_epoch < warmup_epochs:
        return lr * fractional_epoch / warmup_epochs
    rest = (fractional_epoch - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * rest))


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.45, 1.0, 1.35])
@pytest.mark.parametrize("min_lr", [0.0, 1e-5])
def test_stablerep_per_iteration_on_fractional_epochs(warmup_epochs, min_lr):
    steps_per_epoch, epochs, lr = 7, 4, 3.225e-3
    for step in range(steps_per_epoch * epochs):
        got = warmup_cosine(step, warmup_epochs * steps_per_epoch, steps_per_epoch * epochs, lr, min_lr)
        assert got == pytest.approx(
            stablerep_rate(step / steps_per_epoch, lr, min_lr, warmup_epochs, epochs), abs=1e-15
        )


def bolts_rates(lr, start_lr, min_lr, warmup, total):
    """The recursion of lightning-bolts' LinearWarmupCosineAnnealingLR, one rate per step."""
    rate, rates = start_lr, [start_lr]
    for step in range(1, total + 1):
        if step < warmup:
            rate += (lr - start_lr) / (warmup - 1)
        elif step == warmup:
            rate = lr
        else:
            now = 1 + math.cos(math.pi * (step - warmup) / (total - warmup))
            before = 1 + math.cos(math.pi * (step - 1 - warmup) / (total - warmup))
            rate = now / before * (rate - min_lr) + min_lr
        rates.append(rate)
    return rates


@pytest.mark.parametrize(("warmup", "total"), [(5, 40), (50, 250)])
def test_lgssl_form_equals_the_bolts_recursion(warmup, total):
    expected = bolts_rates(1e-3, 1e-5, 1e-6, warmup, total)
    got = [warmup_cosine(step, warmup, total, 1e-3, 1e-6, 1e-5, warmup_inclusive=True) for step in range(total + 1)]
    assert got == pytest.approx(expected, rel=1e-9)


def test_ends():
    assert warmup_cosine(0, 3, 10, 1.0) == 0.0
    assert warmup_cosine(0, 0, 10, 1.0) == 1.0
    assert warmup_cosine(3, 3, 10, 1.0) == 1.0
    assert [warmup_cosine(step, 3, 10, 1.0, final_lr=0.1) for step in (10, 11, 99)] == [0.1] * 3
    assert warmup_cosine(1, 1, 1, 1.0, final_lr=0.1) == 0.1
    assert warmup_cosine(0, 1, 9, 1.0, warmup_inclusive=True) == 1.0


@pytest.mark.parametrize("warmup", [-1, 11, math.nan])
def test_a_warmup_that_does_not_fit_is_refused(warmup):
    with pytest.raises(ConfigError, match="does not fit"):
        warmup_cosine(0, warmup, 10, 1.0)


def optimizer_of_two_rates():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([{"params": [first], "lr": 0.4}, {"params": [second], "lr": 0.02}])


def rates(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


def test_scheduler_sets_every_group_and_resumes(tmp_path):
    settings = {"warmup_steps": 2.5, "total_steps": 9, "final_lr": 1e-3, "start_lr": 1e-4}
    expected = [[warmup_cosine(step, base_lr=base, **settings) for base in (0.4, 0.02)] for step in range(11)]
    optimizer = optimizer_of_two_rates()
    scheduler = warmup_cosine_scheduler(optimizer, **settings)
    for got, wanted in zip(rates(optimizer, scheduler, 4), expected, strict=False):
        assert got == pytest.approx(wanted, rel=1e-12)

    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    uninterrupted = rates(optimizer, scheduler, 7)
    optimizer = optimizer_of_two_rates()
    scheduler = warmup_cosine_scheduler(optimizer, **settings)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    assert rates(optimizer, scheduler, 7) == uninterrupted
    assert uninterrupted[-1] == pytest.approx(expected[-1], rel=1e-12)


def test_learning_rate_rules():
    assert scaled_lr(2e-4, 43 * 32 * 6) == pytest.approx(3.225e-3)
    assert scaled_lr(1e-3, 512) == 1e-3
    assert scaled_lr(0.3, 4096, reference=256) == pytest.approx(4.8)
    with pytest.raises(ConfigError, match="base_lr=-1"):
        scaled_lr(-1, 512)
