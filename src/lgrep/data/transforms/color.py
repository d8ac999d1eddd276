"""Colour operations on batches [n, 3, H, W] of float32 pictures in [0, 1], each with its own parameters.

Functions with a trailing underscore work in place. All agree with torchvision's float path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds it
_CPU_BLOCK = 2**19  # floats; the temporaries of such a block stay in two cores' L2 caches


def block_length(pictures: Tensor, floats: int = _CPU_BLOCK) -> int:
    """How many pictures to handle at once: what fits the cache on the CPU, the whole batch elsewhere."""
    if pictures.device.type != "cpu":
        return len(pictures)
    return min(len(pictures), max(1, floats // pictures[:1].numel())) if len(pictures) else 0


def luma(pictures: Tensor, out: Tensor | None = None) -> Tensor:
    """Grey value [n, H, W] with the weights `LUMA`."""
    red, green, blue = pictures.unbind(1)
    return torch.mul(red, LUMA[0], out=out).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blend_(
    pictures: Tensor, factor: Tensor, to_mean: Tensor, to_grey: Tensor, workspace: Tensor | None = None
) -> Tensor:
    """Brightness, contrast or saturation, whichever each picture's weights say, in one pass.

    `clamp(factor * x + to_mean * mean(luma) + to_grey * luma, 0, 1)`: with f the torchvision factor,
    brightness has the weights (f, 0, 0), contrast (f, 1 - f, 0), saturation (f, 0, 1 - f).

    Args:
        pictures: [n, 3, H, W], changed in place.
        factor: [n], weight of the picture itself.
        to_mean: [n], weight of the mean of its luma.
        to_grey: [n], weight of its luma, pixel by pixel.
        workspace: see `make_workspace`.
    """
    grey, *_ = _planes(pictures, workspace)
    luma(pictures, out=grey)
    # Two steps, so that the order of summation never depends on the number of pictures.
    mean = grey.mean(-1).mean(-1)
    torch.addcmul((to_mean * mean)[:, None, None], grey, to_grey[:, None, None], out=grey)
    torch.addcmul(grey[:, None], pictures, factor[:, None, None, None], out=pictures)
    return pictures.clamp_(0.0, 1.0)


def shift_hue_(pictures: Tensor, shift: Tensor, workspace: Tensor | None = None) -> Tensor:
    """Turn the hue by `shift` [n] (in turns, -0.5 to 0.5), value and saturation of HSV kept, in place."""
    red, green, blue = pictures.unbind(1)
    high, low, chroma, hue, other, weight = _planes(pictures, workspace)
    torch.maximum(torch.maximum(red, green, out=high), blue, out=high)
    torch.minimum(torch.minimum(red, green, out=low), blue, out=low)
    torch.sub(high, low, out=chroma)
    # The hue in sixths of a turn, times the chroma, for green, blue, then red as the highest channel; selected
    # by exact 0/1 weights: torch.where costs 20 times a blend on the CPU.
    torch.sub(blue, red, out=hue).add_(chroma, alpha=2.0)
    torch.sub(red, green, out=other).add_(chroma, alpha=4.0)
    torch.lerp(hue, other, torch.sub(high, green, out=weight).sign_(), out=hue)
    torch.sub(green, blue, out=other)
    torch.lerp(other, hue, torch.sub(high, red, out=weight).sign_(), out=hue)
    hue.div_(torch.clamp(chroma, min=1e-20, out=other)).add_((6.0 * shift)[:, None, None])
    hue.sub_(torch.mul(hue, 1.0 / 6.0, out=other).floor_(), alpha=6.0)
    for channel, (centre, sign, offset) in zip((red, green, blue), _HUE_WAVES, strict=True):
        wave = torch.sub(hue, centre, out=other).abs_().mul_(sign).add_(offset).clamp_(0.0, 1.0)
        torch.addcmul(low, chroma, wave, out=channel)
    return pictures


_HUE_WAVES = ((3.0, 1.0, -1.0), (2.0, -1.0, 2.0), (4.0, -1.0, 2.0))


def make_workspace(pictures: Tensor) -> Tensor:
    """Room [6, n, H, W] for intermediate planes: reused, it spares the CPU the page faults of fresh memory."""
    count, _, height, width = pictures.shape
    return pictures.new_empty((6, count, height, width))


def _planes(pictures: Tensor, workspace: Tensor | None) -> tuple[Tensor, ...]:
    workspace = make_workspace(pictures) if workspace is None else workspace
    return workspace[:, : len(pictures)].unbind(0)


def jitter_(
    pictures: Tensor, factors: Tensor, order: Tensor, hue_index: Sequence[Tensor], shift_hue: bool = True
) -> Tensor:
    """Brightness, contrast, saturation and hue, in each picture's own order, in place.

    The pictures are handled in four groups by the position of the hue step, the only one that is not a blend:
    within a group every position is either hue for all or one fused blend for all.

    Args:
        pictures: [B, 3, H, W].
        factors: [B, 4], brightness, contrast and saturation factors and the hue shift.
        order: Long [B, 4], which of the four comes at each position (0 brightness ... 3 hue).
        hue_index: for each position p, the pictures whose hue step is the p-th; others are left alone.
        shift_hue: False leaves the hue step out (for recipes whose hue shifts are all zero).
    """
    by_position = factors.gather(1, order)
    to_mean = (1.0 - by_position) * (order == CONTRAST)
    to_grey = (1.0 - by_position) * (order == SATURATION)
    step = min(block_length(pictures), max(len(index) for index in hue_index))
    if step == 0:
        return pictures
    room = torch.empty_like(pictures[:step])
    workspace = make_workspace(room)
    for hue_position, group in enumerate(hue_index):
        for index in torch.split(group, step) if len(group) else ():
            chunk = torch.index_select(pictures, 0, index, out=room[: len(index)])
            factor, mean, grey = (table.index_select(0, index).unbind(1) for table in (by_position, to_mean, to_grey))
            for position in range(4):
                if position == hue_position:
                    if shift_hue:
                        shift_hue_(chunk, factor[position], workspace)
                else:
                    blend_(chunk, factor[position], mean[position], grey[position], workspace)
            pictures.index_copy_(0, index, chunk)
    return pictures


def grayscale_(pictures: Tensor, index: Tensor) -> Tensor:
    """Replace the colours of the listed pictures by their luma, in place."""
    if len(index):
        grey = luma(pictures.index_select(0, index))
        pictures.index_copy_(0, index, grey[:, None].expand(-1, 3, -1, -1))
    return pictures


def solarise_(pictures: Tensor, index: Tensor, threshold: float) -> Tensor:
    """Invert every value at or above `threshold` of the listed pictures, in place."""
    if len(index):
        chosen = pictures.index_select(0, index)
        inverted = torch.ge(chosen, threshold, out=torch.empty_like(chosen))  # 0 or 1, faster than torch.where
        pictures.index_copy_(0, index, torch.lerp(chosen, 1.0 - chosen, inverted))
    return pictures


def flip_(pictures: Tensor, index: Tensor) -> Tensor:
    """Mirror the listed pictures left to right, in place (any dtype)."""
    if len(index):
        pictures.index_copy_(0, index, pictures.index_select(0, index).flip(-1))
    return pictures


def to_float(pictures: Tensor) -> Tensor:
    """uint8 0-255 to float32 in [0, 1]."""
    return pictures / 255.0


def normalise_(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`(x - mean) / std` per channel, in place."""
    scale = _channel_vector([1.0 / value for value in std], pictures)
    shift = _channel_vector([-centre / value for centre, value in zip(mean, std, strict=True)], pictures)
    return torch.addcmul(shift, pictures, scale, out=pictures)


def _channel_vector(values: Sequence[float], like: Tensor) -> Tensor:
    # Filled on the device: copying a host tensor there would synchronise.
    return torch.stack([torch.full((1, 1), value, dtype=like.dtype, device=like.device) for value in values])
