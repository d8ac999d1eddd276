"""Checks of arguments that read shapes and types only, so that no device is waited for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lgrep.losses.gather import Rows, global_rows

WIDTHS = ("C", "D", "K", "P")  # sizes that an empty batch does not make 0, so 0 is a mistake


def check_tensor(
    name: str, tensor: Tensor, kind: str, shape: tuple[int | str, ...], device: torch.device | None = None
) -> None:
    """Refuses a tensor of another kind or shape, or on another device.

    Args:
        name: of the argument.
        tensor: what was given.
        kind: `floating point`, `Bool` or `Long`.
        shape: sizes; a letter stands for any size, other than 0 where it is a width or a number of classes.
        device: where it has to be; None: anywhere.

    Raises:
        ValueError: with what was given and what is allowed.

    >>> check_tensor("mask", torch.zeros(2, 3), "Bool", (2, "L"))
    Traceback (most recent call last):
    ValueError: mask must be Bool [2, L], got torch.float32 [2, 3].
    """
    wanted = {"Bool": torch.bool, "Long": torch.long}
    right = tensor.is_floating_point() if kind == "floating point" else tensor.dtype == wanted[kind]
    if right and tensor.ndim == len(shape) and (device is None or tensor.device == device):
        sizes = zip(tensor.shape, shape, strict=True)
        if all(got == size if isinstance(size, int) else got > 0 or size not in WIDTHS for got, size in sizes):
            return
    place, where = (f" on {device}", f" on {tensor.device}") if device not in (None, tensor.device) else ("", "")
    raise ValueError(
        f"{name} must be {kind} [{', '.join(map(str, shape))}]{place}, got {tensor.dtype} {list(tensor.shape)}{where}."
    )


def check_positive(**values: float) -> None:
    """Refuses numbers that are not positive and finite.

    Raises:
        ValueError: with the name and the number.
    """
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a positive finite number, got {value!r}.")


def counted_rows(name: str, local_rows: int, at_least: int = 1) -> Rows:
    """The layout of the global batch, which must hold `at_least` rows.

    Raises:
        ValueError: the batch is smaller.
    """
    rows = global_rows(local_rows)
    if rows.total < at_least:
        raise ValueError(f"{name} has {rows.total or 'no'} rows on all processes together, the least is {at_least}.")
    return rows


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


def check_scale(scale: float | Tensor) -> None:
    """Refuses a scale that is neither a positive number nor a tensor of one element.

    Raises:
        ValueError: with the value or shape.
    """
    if isinstance(scale, Tensor):
        if scale.numel() != 1 or not scale.is_floating_point() or scale.ndim != 0:
            raise ValueError(
                f"logit_scale must be a number or a floating point tensor of shape [], got {scale.dtype} {list(scale.shape)}."
            )
    elif not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"logit_scale must be a positive finite number (exponentiated already), got {scale!r}.")


def check_smoothing(label_smoothing: float) -> None:
    """Refuses a label smoothing outside [0, 1).

    Raises:
        ValueError: with the value.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing!r}.")


def check_pairs(features: Tensor, **named: tuple[Tensor, ...] | None) -> None:
    """Refuses sparse pairs (i, j) or (i, j, weight) of other types, lengths or devices.

    Raises:
        ValueError: with what was got.
    """
    for name, pairs in named.items():
        if pairs is None:
            continue
        wanted = 3 if name == "positives" else 2
        fine = len(pairs) == wanted and all(part.shape == pairs[0].shape and part.ndim == 1 for part in pairs)
        fine = fine and all(part.dtype == torch.long for part in pairs[:2]) and all(
            part.is_floating_point() for part in pairs[2:]
        )  # fmt: skip
        if not fine or any(part.device != features.device for part in pairs):
            got = ", ".join(f"{part.dtype} {list(part.shape)} on {part.device}" for part in pairs)
            form = "(Long[P], Long[P], floating point [P])" if wanted == 3 else "(Long[P], Long[P])"
            raise ValueError(f"{name} must be {form} on {features.device}, got ({got}).")
