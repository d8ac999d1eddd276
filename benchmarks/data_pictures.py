"""Pictures for the benchmarks of the data pipeline: made here, as large and as compressible as photographs.

Two photographs that scikit-learn ships (china.jpg, flower.jpg), and pictures of smooth noise whose amplitude falls with
its frequency as in photographs. JPEG files have quality 90 and halved chroma, about 30 kB at 500 x 375.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def pictures(count: int, width: int, height: int) -> list[Image.Image]:
    """The two photographs in turn with two pictures of noise, `width` x `height`."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    made = []
    for number in range(count):
        if number % 4 < 2:
            photograph = photographs[number % 2]
            made.append(photograph.resize((width, height), Image.Resampling.LANCZOS, box=_window(photograph, number)))
        else:
            made.append(noise(number, width, height))
    return made


def noise(seed: int, width: int, height: int) -> Image.Image:
    """Octaves of smooth noise, each with 0.55 of the amplitude of the one below; the channels agree by two thirds."""
    rng = np.random.default_rng(seed)
    total, amplitude, columns = np.zeros((height, width, 3), np.float32), 1.0, 2
    while columns < max(width, height) // 1.5:
        rows = max(1, columns * height // width)
        grid = 0.35 * rng.normal(size=(rows, columns, 3)) + rng.normal(size=(rows, columns, 1))
        for channel in range(3):
            plane = Image.fromarray(grid[..., channel].astype(np.float32))
            total[..., channel] += amplitude * np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
        amplitude, columns = 0.55 * amplitude, 2 * columns
    scaled = (total - total.mean()) / total.std() * 55 + 118
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str) -> bytes:
    """The picture as `jpeg` (quality 90) or `png`."""
    buffer = BytesIO()
    picture.save(buffer, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return buffer.getvalue()


def _window(picture: Image.Image, number: int) -> tuple[float, float, float, float]:
    """Another part of the photograph for each number, of its own proportions."""
    share = 0.8 + 0.2 * (number % 5) / 4
    width, height = picture.width * share, picture.height * share
    left, top = (picture.width - width) * (number % 3) / 2, (picture.height - height) * (number % 7) / 6
    return left, top, left + width, top + height
