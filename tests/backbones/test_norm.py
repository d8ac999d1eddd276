"""The cross-process BatchNorm against torch's on the whole batch."""

from __future__ import annotations

import copy
from itertools import accumulate

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lgrep.backbones.norm import CrossProcessBatchNorm, CrossProcessBatchNormAct, convert_batchnorm

DOUBLE = torch.float64
COUNTS = [(4, 4), (5, 3), (1, 7), (3, 3, 2), (3, 0, 5)]


def slices(counts):
    ends = list(accumulate(counts))
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


def forward_backward(layer, batch, weights):
    """Output, input gradient, parameter gradients and buffers after two steps on different batches."""
    layer(batch * 0.5 + 1)
    leaf = batch.clone().requires_grad_()
    output = layer(leaf)
    # non-linear, so that an error in any statistic's gradient shows
    ((output.square() + output) * weights).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    return output.detach(), leaf.grad, gradients, [buffer.clone() for buffer in layer.buffers()]


def shard(rank, batch, weights, counts, options, state):
    own = slices(counts)[rank]
    layer = CrossProcessBatchNorm(batch.shape[1], **options).to(batch.dtype)
    layer.load_state_dict(state)
    return forward_backward(layer, batch[own], weights[own])


OPTIONS = {
    "default": {},
    "plain": {"affine": False},
    "cumulative": {"momentum": None},
    "untracked": {"track_running_stats": False},
}


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4, 2)], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_several_processes_equal_one(run_processes, counts, shape, options):
    batch, weights = torch.randn(shape, dtype=DOUBLE) * 3 + 5, torch.randn(shape, dtype=DOUBLE)
    plain = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3, **options).double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    results = run_processes(shard, len(counts), batch, weights, counts, options, plain.state_dict())
    output, input_gradient, gradients, buffers = forward_backward(plain, batch, weights)

    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([result[0] for result in results]), output, **close)
    torch.testing.assert_close(torch.cat([result[1] for result in results]), input_gradient, **close)
    for number, gradient in enumerate(gradients):
        torch.testing.assert_close(sum(result[2][number] for result in results), gradient, **close)
    for result in results:
        torch.testing.assert_close(result[3], buffers, **close)
        assert all(torch.equal(one, other) for one, other in zip(result[3], results[0][3], strict=True))


def half_precision_shard(rank, batch):
    layer = CrossProcessBatchNorm(4)
    output = layer(batch.chunk(2)[rank])
    return output, layer.running_var


def test_half_precision_is_normalised_in_float32(run_processes):
    batch = (torch.randn(16, 4) * 3 + 100).bfloat16()
    results = run_processes(half_precision_shard, 2, batch)
    layer = nn.BatchNorm1d(4)
    expected = layer(batch.float())
    output = torch.cat([result[0] for result in results])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(results[0][1], layer.running_var, rtol=1e-5, atol=0)


def cuda_shard(rank, batch, weights, counts, state):
    own = slices(counts)[rank]
    layer = CrossProcessBatchNorm(batch.shape[1]).cuda()
    layer.load_state_dict(state)
    return forward_backward(layer, batch[own].cuda(), weights[own].cuda())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_one_process_on_cpu(run_processes):
    batch, weights = torch.randn(8, 3), torch.randn(8, 3)
    plain = nn.BatchNorm1d(3)
    results = run_processes(cuda_shard, 2, batch, weights, (5, 3), plain.state_dict())
    output, input_gradient, _, buffers = forward_backward(plain, batch, weights)
    torch.testing.assert_close(torch.cat([result[0] for result in results]), output, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([result[1] for result in results]), input_gradient, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[1][3], buffers, rtol=1e-4, atol=1e-4)


def small_network():
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5)]
    return nn.Sequential(*layers, nn.Linear(5, 1)).double()


def train_with_ddp(rank, pictures):
    network = DistributedDataParallel(convert_batchnorm(small_network()))
    train(network, pictures.chunk(2)[rank])
    return network.module.state_dict()


def train(network, pictures):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        network(pictures).square().mean().backward()
        optimizer.step()


def test_training_under_ddp_equals_one_process(run_processes):
    pictures = torch.randn(8, 2, 4, 4, dtype=DOUBLE)
    single = small_network()
    train(single, pictures)
    for state in run_processes(train_with_ddp, 2, pictures):
        torch.testing.assert_close(dict(state), dict(single.state_dict()), rtol=1e-10, atol=1e-10)


def lonely_value(rank):
    with pytest.raises(ValueError) as caught:
        CrossProcessBatchNorm(2)(torch.zeros(1 - rank, 2))
    return str(caught.value)


def evaluation_shard(rank, batch):
    layer = CrossProcessBatchNorm(3).eval()
    layer.running_mean.fill_(0.5)
    return layer(batch[rank : rank + 1])


def test_one_value_per_channel_is_refused_on_every_process(run_processes):
    assert all("two values per channel" in message for message in run_processes(lonely_value, 2))


def test_evaluation_uses_the_running_statistics(run_processes):
    batch = torch.randn(2, 3)
    torch.testing.assert_close(torch.cat(run_processes(evaluation_shard, 2, batch)), (batch - 0.5) / (1 + 1e-5) ** 0.5)


def test_one_process_is_torch_bit_for_bit():
    plain, ours = nn.BatchNorm2d(3), CrossProcessBatchNorm(3)
    batch = torch.randn(4, 3, 2, 2)
    assert torch.equal(plain(batch), ours(batch))
    plain.load_state_dict(ours.state_dict())
    ours.load_state_dict(plain.state_dict())
    assert torch.equal(plain.eval()(batch), ours.eval()(batch))
    with pytest.raises(ValueError, match=r"\[4\]"):
        ours(torch.zeros(4))


def test_conversion_keeps_identity_state_and_hooks():
    shared = nn.BatchNorm1d(4, momentum=0.3, eps=1e-3)
    shared.weight.requires_grad_(False)
    network = nn.ModuleDict(
        {"first": shared, "second": nn.Sequential(nn.Linear(4, 4), shared), "other": nn.LayerNorm(4)}
    )
    calls = []
    shared.register_forward_hook(lambda *_: calls.append(1))
    before, keys = dict(network.named_parameters()), list(network.state_dict())
    assert convert_batchnorm(network) is network
    layer = network["first"]
    assert type(layer) is CrossProcessBatchNorm
    assert network["second"][1] is layer
    assert (layer.momentum, layer.eps, layer.weight.requires_grad) == (0.3, 1e-3, False)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    assert list(network.state_dict()) == keys
    layer(torch.randn(3, 4))
    assert calls == [1]
    assert type(network["other"]) is nn.LayerNorm
    assert type(convert_batchnorm(nn.BatchNorm2d(2))) is CrossProcessBatchNorm


@pytest.mark.parametrize("name", ["test_resnet", "resnet18", "test_efficientnet"])
def test_timm_models_keep_their_function(name):
    network = timm.create_model(name, num_classes=0).double()
    original = copy.deepcopy(network)
    convert_batchnorm(network)
    assert not [layer for layer in network.modules() if type(layer) in (nn.BatchNorm2d, BatchNormAct2d)]
    assert any(isinstance(layer, CrossProcessBatchNorm) for layer in network.modules())
    pictures = torch.randn(2, 3, 64, 64, dtype=DOUBLE)
    assert torch.equal(network(pictures), original(pictures))
    torch.testing.assert_close(dict(network.state_dict()), dict(original.state_dict()), rtol=0, atol=0)


def activated_shard(rank, batch):
    layer = convert_batchnorm(BatchNormAct2d(3, act_layer=nn.GELU, drop_layer=nn.Identity).double())
    return layer(batch.chunk(2)[rank]), type(layer)


def test_activation_of_timm_layers_survives_on_several_processes(run_processes):
    batch = torch.randn(6, 3, 2, 2, dtype=DOUBLE)
    results = run_processes(activated_shard, 2, batch)
    assert {kind for _, kind in results} == {CrossProcessBatchNormAct}
    expected = BatchNormAct2d(3, act_layer=nn.GELU).double()(batch)
    torch.testing.assert_close(torch.cat([output for output, _ in results]), expected, rtol=1e-10, atol=1e-10)


class DoubledBatchNorm(nn.BatchNorm1d):
    def forward(self, input):
        return 2 * super().forward(input)


def test_unknown_batch_norms_are_refused_and_nothing_is_changed():
    network = nn.Sequential(nn.BatchNorm1d(2), DoubledBatchNorm(2))
    with pytest.raises(TypeError, match=r"Layer 1 is a .*DoubledBatchNorm"):
        convert_batchnorm(network)
    assert type(network[0]) is nn.BatchNorm1d
