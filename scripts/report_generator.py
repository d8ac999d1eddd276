"""Measure the emoji generator for its model card: `python scripts/report_generator.py --out FOLDER`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lgrep.cli import program
from lgrep.generation.emoji_pipeline import load_emoji_pipeline
from lgrep.generation.emoji_report import QUANTILES, Report, sheet
from lgrep.records import provenance, weights_hash

SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)
CAPTIONS = {  # of the sample sheets: those of the test part were never seen
    "train": ("face with tears of joy", "lion", "red apple", "maple leaf", "snowboarder", "ballet shoes"),
    "test": ("smiling face with halo", "dog", "strawberry", "sunflower", "ambulance", "high-heeled shoe"),
}


@program
def main() -> int:
    """Measure, print Markdown tables, write `report.json` and the sample sheets."""
    options = _options()
    pipe = load_emoji_pipeline(options.pipeline)
    pipe.set_progress_bar_config(disable=True)
    report = Report(pipe, options.captions, options.each, options.seed)
    found: dict[str, Any] = {
        "weights": {name: weights_hash(getattr(pipe, name)) for name in ("transformer", "text_encoder", "vae")},
        "settings": {
            "captions": options.captions,
            "each": options.each,
            "seed": options.seed,
            "steps": options.steps,
        },
        **provenance(),
    }
    found["guidance"] = {part: guidance(report, part, options.steps) for part in ("train", "test")}
    found["steps"] = {str(steps): row(report, "train", options.scale, steps) for steps in options.compare_steps}
    found["copying"] = copying(report, options.steps)
    for part, captions in CAPTIONS.items():
        sheet(pipe, captions, SCALES, 3, options.steps, options.out / f"emoji_generator_{part}.png")
    (options.out / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def guidance(report: Report, part: str, steps: int) -> dict[str, dict[str, float]]:
    """The numbers of a part's captions at every guidance scale, and of the held-out designer's real drawings."""
    rows = {"real, held-out designer": report.references(part)}
    for scale in SCALES:
        rows[f"{scale:g}"] = row(report, part, scale, steps)
    _table(f"{part} captions", rows)
    return rows


def row(report: Report, part: str, scale: float, steps: int) -> dict[str, float]:
    """The numbers at one guidance scale."""
    drawn = report.draw(part, scale, steps)
    return {**report.quality(part, drawn), "pictures/s": drawn.rate}


def copying(report: Report, steps: int) -> dict[str, Any]:
    """Quantiles of the distances to the nearest training drawing."""
    sets = {f"real {name}": values for name, values in report.copying_references().items()}
    near = {kind: np.quantile(values, 0.05) for kind, values in sets["real siblings"].items()}
    for part in ("train", "test"):
        for scale in SCALES:
            sets[f"{part} captions, scale {scale:g}"] = report.copying(report.draw(part, scale, steps))
    found: dict[str, Any] = {}
    for kind in ("feature", "pixel"):
        found[kind] = {
            name: {
                **{f"{100 * q:g} %": float(np.quantile(values[kind], q)) for q in QUANTILES},
                "nearer than 95 % of siblings": float((values[kind] < near[kind]).mean()),
            }
            for name, values in sets.items()
        }
        _table(f"{kind} distance to the nearest training drawing", found[kind])
    return found


def _table(title: str, rows: dict[str, dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    print(f"\n| {title} | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for label, values in rows.items():
        cells = [f"{values[name]:.3f}" if name in values else "" for name in names]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, help="folder; default: the package's own weights")
    parser.add_argument("--out", type=Path, default=Path("runs/generator/report"))
    parser.add_argument("--captions", type=int, default=100, help="of the train part, and as many of the test part")
    parser.add_argument("--each", type=int, default=4, help="pictures of a caption")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--scale", type=float, default=4.0, help="guidance scale at which steps are compared")
    parser.add_argument("--compare-steps", type=int, nargs="*", default=[6, 10, 20])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
