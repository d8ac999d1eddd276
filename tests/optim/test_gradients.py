"""Clipping, LARS and the weight decay's schedule against torch's own functions and sums by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from made_methods import CASES, make_batch, make_method
from torch import nn
from torch.utils.data import DataLoader

from lgrep.data.batch import Batch
from lgrep.optim import Optimisation, build_optimizer, clip_gradients, cosine, gradient_norm, parameter_groups


@pytest.mark.parametrize("largest", [0.1, 5.0, 1e6])
def test_clipping_is_torchs(largest: float) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((3, 4), (7,), ())]
    gradients = [torch.randn_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected = torch.nn.utils.clip_grad_norm_(parameters, largest)
    before = clip_gradients(gradients, largest)
    assert before.item() == pytest.approx(expected.item(), rel=1e-12)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=0)
    assert gradient_norm(gradients).item() == pytest.approx(min(largest, before.item()), rel=1e-5)
    assert not gradient_norm([torch.tensor([3.0]), torch.tensor([-torch.inf])]).isfinite()


def test_lars_adapts_decayed_weights_alone() -> None:
    """One step by hand: rate x trust |w| / (|g| + decay |w|), and the plain rate for biases."""
    layer = nn.Linear(3, 2).double()
    optimizer = build_optimizer("lars", parameter_groups(layer, 0.1), lr=0.5, momentum=0.9, trust_coeff=0.01)
    weight, bias = (parameter.detach().clone() for parameter in layer.parameters())
    layer(torch.ones(1, 3, dtype=torch.float64)).square().sum().backward()
    of_weight, of_bias = (parameter.grad.clone() for parameter in layer.parameters())  # type: ignore[union-attr]
    optimizer.step()
    trust = 0.01 * weight.norm() / (of_weight.norm() + 0.1 * weight.norm())
    torch.testing.assert_close(layer.weight, weight - 0.5 * trust * (of_weight + 0.1 * weight), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(layer.bias, bias - 0.5 * of_bias)


def test_a_run_clips_and_raises_its_decay(tmp_path: Path) -> None:
    """Every step moves by the learning rate times the allowed norm at most; the decay is that of its step."""
    method = make_method(*CASES[0][:2])
    steps, largest, lr = 4, 1e-3, 0.1
    method.optimisation = Optimisation("sgd", {}, lr, 0.04, "norm_and_bias", 0, steps, final_weight_decay=0.4)
    seen: list[tuple[float, float, float]] = []

    class Watch(pl.Callback):
        def on_before_zero_grad(
            self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
        ) -> None:
            groups = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if gradients:
                seen.append((groups["decay"], groups["no_decay"], gradient_norm(gradients).item()))

    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, gradient_clip_val=largest, callbacks=[Watch()], default_root_dir=tmp_path,
        log_every_n_steps=1000,
    )  # fmt: skip
    batches: list[Batch] = [make_batch(CASES[0][2], anchors=4, seed=number) for number in range(steps)]
    trainer.fit(method, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert len(seen) >= steps - 1
    for step, (decay, none, norm) in enumerate(seen):
        by_hand = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / steps)) / 2
        assert decay == pytest.approx(by_hand, rel=1e-12) and none == 0.0
        assert norm == pytest.approx(largest, rel=1e-3)
    assert cosine(9, 4, 0.04, 0.4) == cosine(0, 0, 0.04, 0.4) == 0.4
