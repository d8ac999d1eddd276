"""How many captions to draw at once: found once per set, then part of its identity."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from lgrep.data.notices import notice
from lgrep.generation.noise import Key
from lgrep.generation.painter import Painter
from lgrep.mining.ranges import made_once

CPU_BATCH = 16
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ENOUGH = 1.03  # a doubled batch must be this much faster per picture
_ROOM = 0.9  # of the memory
_STEPS = 4


def batch_size(path: Path, painter: Painter, texts: Sequence[str]) -> int:
    """The batch size in a file, which the first process to ask writes.

    On a CPU it is 16. On a GPU it is the smallest power of two after which doubling gains less than 3 %, within 90 % of
    the memory.

    Args:
        path: the file.
        painter: draws.
        texts: some captions.
    """

    def write(partial: Path) -> None:
        size = _probe(painter, texts) if painter.device.startswith("cuda") else CPU_BATCH
        partial.write_text(json.dumps({"batch_size": size}) + "\n", encoding="utf-8")

    made_once(path, write)
    return int(json.loads(path.read_text(encoding="utf-8"))["batch_size"])


def _probe(painter: Painter, texts: Sequence[str]) -> int:
    full = painter.settings
    painter.settings = dataclasses.replace(full, steps=min(_STEPS, full.steps), safety="off", compile=False)
    best, speed = 1, 0.0
    try:
        for size in _SIZES:
            try:
                now = size / _seconds(painter, texts, size)
            except torch.OutOfMemoryError:
                break
            if now < _ENOUGH * speed:
                break
            best, speed = size, now
            if (
                torch.cuda.max_memory_reserved()
                > _ROOM * torch.cuda.get_device_properties(painter.device).total_memory / 2
            ):
                break
    finally:
        painter.settings = full
        torch.cuda.empty_cache()
    notice(f"generator.batch_size=auto: {best}")
    return best


def _seconds(painter: Painter, texts: Sequence[str], size: int) -> float:
    chosen = [texts[number % len(texts)] for number in range(size)]
    keys = [Key(0, text, number) for number, text in enumerate(chosen)]
    for _ in range(2):  # the first call fills caches
        torch.cuda.synchronize()
        begun = time.monotonic()
        painter(chosen, keys, size)  # ends with a copy to the host
        taken = time.monotonic() - begun
    return taken
