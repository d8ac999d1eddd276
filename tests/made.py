"""Small picture sets made for tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 36) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, kind)
    return buffer.getvalue()


def picture_folder(root: Path, groups: int = 6, per_group: int = 3) -> Path:
    """`root/class_a|b/caption_i/j.png`, with a sidecar text per picture."""
    for group in range(groups):
        folder = root / ("class_a" if group % 2 else "class_b") / f"caption_{group}"
        folder.mkdir(parents=True)
        for number in range(per_group):
            (folder / f"{number}.png").write_bytes(encoded(100 * group + number))
            (folder / f"{number}.txt").write_text(f"caption number {group}\n", encoding="utf-8")
    return root
