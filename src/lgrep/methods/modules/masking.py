"""Random masks of patches that depend on a sample's key alone, on any device and any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN, _MIX_A, _MIX_B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def keyed_uniform(seed: int, keys: Tensor, stream: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 [B, count], by hashing (seed, epoch, anchor, stream, place) with SplitMix64.

    Args:
        seed: of the run.
        keys: Long [2, B], epoch and anchor (`Batch.keys`).
        stream: another one gives other numbers for the same sample.
        count: numbers per sample.

    >>> keys = torch.tensor([[0, 0], [3, 4]])
    >>> first, again = keyed_uniform(0, keys, 0, 5), keyed_uniform(0, keys[:, 1:], 0, 5)
    >>> bool((first[1] == again[0]).all()), bool((first[0] == first[1]).any())
    (True, False)
    """
    state = _mixed(keys[1] + _wrapped(_GOLDEN * (stream + 1)))
    state = _mixed(state ^ keys[0])
    state = _mixed(state + _wrapped(_GOLDEN * (seed + 1)))
    place = torch.arange(1, count + 1, device=keys.device) * _wrapped(_GOLDEN)
    return (_mixed(state[:, None] + place) & (2**24 - 1)).float() / 2**24


def random_order(seed: int, keys: Tensor, stream: int, count: int) -> Tensor:
    """A random permutation of 0..count-1 for every sample, Long [B, count]."""
    return keyed_uniform(seed, keys, stream, count).argsort(dim=1, stable=True)


def _wrapped(value: int) -> int:
    """The signed 64-bit integer with the same bits."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shifted(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(value: Tensor) -> Tensor:
    value = (value ^ _shifted(value, 30)) * _wrapped(_MIX_A)
    value = (value ^ _shifted(value, 27)) * _wrapped(_MIX_B)
    return value ^ _shifted(value, 31)
