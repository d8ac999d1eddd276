"""The losses without a similarity matrix are one graph and never make the host wait for a device."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lgrep.losses import (
    barlow_twins,
    batch_center,
    cosine_softmax_logits,
    dino,
    masked_reconstruction,
    masked_token,
    negative_cosine,
    sinkhorn,
    swapped_prediction,
    vicreg,
)
from lgrep.methods.modules.class_mean_memory import ClassMeanMemory

MASK = torch.tensor([[True, False, True], [False, True, True]])
WEIGHTS = torch.full((4,), 0.5)
# function, and the shapes of its random inputs or the inputs themselves
CASES = {
    "negative_cosine": (negative_cosine, [(6, 4), (6, 4)]),
    "barlow_twins": (barlow_twins, [(6, 4), (6, 4)]),
    "vicreg": (vicreg, [(6, 4), (6, 4)]),
    "sinkhorn": (sinkhorn, [(6, 4)]),
    "swapped_prediction": (lambda a, b: swapped_prediction(a, sinkhorn(b)), [(6, 4), (6, 4)]),
    "dino": (lambda s, t, c: dino(s, t, c, 0.1, 0.04), [(3, 6, 4), (2, 6, 4), (4,)]),
    "dino with Sinkhorn": (lambda s, t: dino(s, t, None, 0.1, 0.04), [(3, 6, 4), (2, 6, 4)]),
    "batch_center": (batch_center, [(2, 6, 4)]),
    "masked_token": (lambda s, t, m, w: masked_token(s, t, m, w, 0.1), [(4, 5), (4, 5), MASK, WEIGHTS]),
    "masked_reconstruction": (masked_reconstruction, [(2, 3, 4), (2, 3, 4), MASK]),
    "cosine_softmax_logits": (cosine_softmax_logits, [(6, 4), (5, 4)]),
}


def inputs_of(name):
    return [each if isinstance(each, torch.Tensor) else torch.randn(each) for each in CASES[name][1]]


@pytest.mark.parametrize("name", CASES)
def test_one_graph(name):
    torch.compiler.reset()
    loss, inputs = CASES[name][0], inputs_of(name)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))


@pytest.mark.parametrize("name", CASES)
def test_no_value_is_read_by_the_host(name):
    """Fake tensors have shapes and no values, so any read of one would raise, also in the backward pass."""
    real = inputs_of(name)
    with FakeTensorMode() as mode:
        inputs = [mode.from_tensor(tensor) for tensor in real]
        inputs[0].requires_grad_()
        loss = CASES[name][0](*inputs)
        if loss.requires_grad:
            loss.sum().backward()
            assert inputs[0].grad.shape == inputs[0].shape


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_cuda_gives_the_same_without_waiting(name):
    """Forward and backward in bfloat16 inputs and autocast, with every implicit wait an error."""
    loss, inputs = CASES[name][0], inputs_of(name)
    inputs = [tensor.bfloat16() if tensor.is_floating_point() else tensor for tensor in inputs]
    on_device = [tensor.cuda() for tensor in inputs]
    on_device[0].requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            got = loss(*on_device)
        if got.requires_grad:
            got.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.detach().cpu(), loss(*inputs), rtol=1e-4, atol=1e-4)


def test_memory_update_is_one_graph():
    torch.compiler.reset()
    plain, compiled = ClassMeanMemory(8, 3, 4), ClassMeanMemory(8, 3, 4)
    compiled.load_state_dict(plain.state_dict())

    def step(features, labels):
        compiled.update(features, labels)
        return compiled.class_weights()

    step = torch.compile(step, backend="eager", fullgraph=True)
    for _ in range(3):
        features, labels = torch.randn(3, 3), torch.randint(4, (3,))
        plain.update(features, labels)
        torch.testing.assert_close(step(features, labels), plain.class_weights())
