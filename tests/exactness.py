"""Value and gradient of a loss, alone and as several processes see it."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import settings

DOUBLE = torch.float64
# rows per process of a global batch of 12, on 2 and 3 processes
COUNTS = [(6, 6), (7, 5), (1, 11), (4, 4, 4), (2, 7, 3), (5, 0, 7)]


def value_and_gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def close(got, expected, tolerance):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def slices(counts):
    ends = list(accumulate(counts))
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


def averaged(results, dim=0):
    """What DDP makes of it: the mean over processes of the values and of their gradients."""
    values, *gradients = zip(*results, strict=True)
    return torch.stack(values).mean(), *[torch.cat(parts, dim=dim) / len(parts) for parts in gradients]


def golden(case, side, *names):
    return [torch.from_numpy(case[side][name]) for name in names]


# the same few examples on each run, and no folder of examples in the working directory
few_examples = settings(max_examples=20, deadline=None, derandomize=True, database=None)
