"""Checks of arguments that read shapes and types only, so that no device is waited for."""

from __future__ import annotations

import math

from torch import Tensor


def check_embeddings(**embeddings: Tensor) -> None:
    """Refuses anything but floating point [n, D] tensors of one shape.

    Raises:
        ValueError: with the name, type and shape of every tensor.
    """
    first = next(iter(embeddings.values()))
    fine = first.ndim == 2 and first.shape[1] > 0
    if fine and all(tensor.is_floating_point() and tensor.shape == first.shape for tensor in embeddings.values()):
        return
    got = ", ".join(f"{name}: {tensor.dtype} {list(tensor.shape)}" for name, tensor in embeddings.items())
    wanted = "a floating point [n, D] tensor" + (", the same for all" if len(embeddings) > 1 else "")
    raise ValueError(f"{' and '.join(embeddings)} must be {wanted}; got {got}.")


def check_temperature(temperature: float) -> None:
    """Refuses a temperature that is not a positive finite number.

    Raises:
        ValueError: with the value.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a positive finite number, got {temperature!r}.")
