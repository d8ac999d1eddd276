"""Sets in published layouts, made for tests."""

from __future__ import annotations

import csv
from pathlib import Path

from made import encoded

CAPTIONS = 12
SEEDS = 10


def relative(number: int) -> str:
    """Where the published generator puts picture `number` below each seed's folder."""
    return f"000000/{number // 1000:06d}/{number % 1000:05d}.png"


def caption_text(number: int) -> str:
    """Commas, quotes, line breaks and odd Unicode; captions 4 and 5 are equal."""
    return f'no. {min(number, 4) if number == 5 else number}, "said" the naïve 猫' + "\nin two lines" * (number == 3)


def stablerep_layout(folder: Path, captions: int = CAPTIONS, seeds: int = SEEDS, scale: str = "2.0") -> Path:
    """`folder/captions.csv` (with a header) and `folder/ddim_<scale>_seed_<n>/000000/...` for n = 1..seeds."""
    for number in range(captions):
        for seed in range(1, seeds + 1):
            path = folder / f"ddim_{scale}_seed_{seed}" / relative(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(1000 * seed + number))
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["filename", "caption"])
        writer.writerows([relative(number), caption_text(number)] for number in range(captions))
    return folder
