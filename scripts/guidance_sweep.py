"""Accuracy, diversity and fidelity over the guidance scale: `python scripts/guidance_sweep.py --smoke`.

Makes a set of emoji for every guidance scale (generate.py), trains on each and on real drawings (train.py), evaluates,
and writes curves.csv, curves.json, guidance.md and guidance.png. The same command goes on after any interruption.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lgrep.cli import program

ROOT = Path(__file__).resolve().parents[1]
SMOKE: dict[str, Any] = {"scales": (1.0, 4.0, 10.0), "methods": ("stablerep",), "seeds": 1, "captions": 150, "steps": 300,
                         "out": Path("runs/guidance_smoke")}  # fmt: skip


@program
def main(arguments: list[str] | None = None) -> int:
    """Do what is missing; exit code."""
    from lgrep.config.compose import parse
    from lgrep.generation.sweep import Sweep
    from lgrep.generation.sweep_programs import Programs, Stopped
    from lgrep.generation.sweep_settings import SweepSettings

    given = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    smoke = given.pop("smoke")
    try:
        settings = parse(SweepSettings, {**(SMOKE if smoke else {}), **given})
        sweep = Sweep(settings, Programs(ROOT, settings.out / "jobs"))
        code = sweep.run()
    except (KeyboardInterrupt, Stopped) as error:
        print("stopped. Type the same command to go on", file=sys.stderr)
        return error.exit_code if isinstance(error, Stopped) else 130
    print((settings.out / "guidance.md").read_text(encoding="utf-8"))
    for failure in sweep.failed:
        print(f"failed: {failure['job']}: {failure['error']}", file=sys.stderr)
    print(f"curves.csv, curves.json, guidance.md and guidance.png are in {settings.out}")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--smoke", action="store_true", help="3 scales x 150 captions x 4 pictures, StableRep, 300 steps, 1 seed"
    )
    parser.add_argument("--scales", type=float, nargs="+", help="guidance scales; default: 1 2 4 6 8 10")
    parser.add_argument("--methods", nargs="+", help="default: stablerep simclr clip")
    parser.add_argument("--seeds", type=int, help="how many, of the training; default: 3")
    parser.add_argument("--captions", type=int, help="default: all 954 training captions")
    parser.add_argument("--images", type=int, help="generated pictures of each caption; default: 4")
    parser.add_argument("--steps", type=int, help="optimiser steps; default: the recipes' 1000")
    parser.add_argument("--out", type=Path, help="default: runs/guidance_sweep, runs/guidance_smoke")
    parser.add_argument("--sets", type=Path, help="folder of the sets; default: OUT/generated")
    parser.add_argument("--group", help="send the runs to W&B, as this group")
    parser.add_argument("--generate", nargs="+", metavar="KEY=VALUE", help="further settings of generate.py")
    parser.add_argument("--train", nargs="+", metavar="KEY=VALUE", help="further settings of train.py")
    return parser


if __name__ == "__main__":
    sys.exit(main())
