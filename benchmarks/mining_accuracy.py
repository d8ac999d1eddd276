"""LG-SimCLR beside SimCLR and StableRep on emoji: `python benchmarks/mining_accuracy.py --out benchmarks/mining`.

Equal optimiser steps and pictures per step (1,000 x 192 in the recipes); mines, trains every recipe with every seed
(about 4 minutes each on 2 cores; what is finished is kept), evaluates all, writes accuracy.csv: mean and standard
deviation over seeds of linear and kNN accuracy on the test fold.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("simclr_emoji", "stablerep_emoji", "lgsimclr_emoji")
METRICS = ("linear", "linear_per_class", "knn", "knn_per_class", "R@1")


def command(*arguments: str) -> None:
    print(" ".join(arguments), flush=True)
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--miner", default="minilm", help="file of configs/miner")
    parser.add_argument("--work", type=Path, default=Path("runs/mining_accuracy"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "override", nargs="*", help="further settings of train.py for every run, e.g. duration.steps=1500"
    )
    options = parser.parse_args()
    work = options.work.resolve()
    table = work / f"neighbours-{options.miner}"
    command("scripts/mine_neighbours.py", "data=emoji", f"miner={options.miner}", f"out={table}", f"cache={work}/cache")
    rows = []
    for recipe in options.recipes:
        measured: dict[str, list[float]] = {metric: [] for metric in METRICS}
        for seed in options.seeds:
            runs = work / f"{recipe}-{seed}"
            pairs = [f"pairing.table={table}"] if recipe.startswith("lg") else []
            command(
                "train.py", f"+experiment={recipe}", f"seed={seed}", f"paths.runs={runs}", *pairs, *options.override
            )
            results = runs / "evaluation"
            command("evaluate.py", f"model={runs}", "dataset=emoji", "baselines=false", f"out={results}")
            for path in (results / "records").glob("*.json"):
                values = json.loads(path.read_text(encoding="utf-8"))["values"]
                for metric in METRICS:
                    if metric in values:
                        measured[metric].append(float(values[metric]))
        row: dict[str, object] = {"recipe": recipe, "seeds": len(options.seeds)}
        for metric, found in measured.items():
            row[metric] = round(statistics.mean(found), 4)
            row[f"{metric}_sd"] = round(statistics.stdev(found), 4) if len(found) > 1 else ""
        rows.append(row)
        print(row, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "accuracy.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
