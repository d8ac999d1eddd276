"""Every method on the embedded emoji set, one line each: `python scripts/benchmark_methods.py`.

Trains each row for a few steps with the same settings, then measures kNN and linear accuracy on the test fold beside
random weights of the same network (as many as seeds) and raw pixels. A run that is there already is not repeated, so
the command can be typed again after a stop. Heads and text towers are smaller than published, to fit a CPU;
`--full-heads` keeps them.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from lgrep.cli import program

COMMON = ["data=emoji", "optimizer.base_lr=2e-3", "optimizer.lr_scaling=none", "optimizer.weight_decay=0.05",
          "schedule.warmup_steps=20", "loader.workers=0", "loader.cache_mb=256", "callbacks=none",
          "checkpoint.keep=1", "checkpoint.every_n_steps=100000"]  # fmt: skip
HEADS = {
    "projector_dims": "[512,128]", "predictor_dims": "[256,128]", "prototypes": "512", "hidden_dim": "256",
    "bottleneck_dim": "64", "queue_size": "1024", "memory_size": "1024", "decoder_dim": "128", "decoder_depth": "2",
    "decoder_heads": "4",
}  # fmt: skip
CROSS = {"barlip": (256, 256), "siamlip": (256, 64), "byolip": (256, 64)}  # hidden and output widths of their heads
TOWER = "language.tower.options={width: 128, heads: 4, layers: 3}"
PATCHED = ("mae", "synclr")  # methods for vision transformers
SIBLINGS = {"stablerep": 6, "stablerep_plus": 6, "synclr": 4}
LABELLED = ("supervised", "trex")
MAIN = ("simclr", "lg_simclr", "stablerep", "byol", "clip", "dino")
# What photographs, long runs and large batches are made for does not suit 200 steps on drawings.
SETTINGS = {
    "dino": ("optimizer.base_lr=5e-4",),
    "simsiam": ("optimizer.base_lr=5e-4",),
    "barlow_twins": ("optimizer.base_lr=5e-4",),
    "swav": ("optimizer.base_lr=2e-4", "method.freeze_steps=20", "method.prototypes=128", "augment=drawings"),
}
METRICS = ("knn", "linear", "R@1")


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, and what is typed for it."""

    name: str
    method: str
    overrides: tuple[str, ...] = ()


def rows() -> list[Row]:
    """One row per file of configs/method, and the language-guided ones, which are a pairing."""
    from lgrep.config.compose import group_choices

    found = []
    for name in group_choices("method"):
        extra: list[str] = []
        if name in SIBLINGS:
            extra += ["pairing=siblings", f"pairing.pictures={SIBLINGS[name]}"]
        if name in LABELLED:
            extra += ["data.where.label.min=0"]
        if name == "lgslip":
            extra += ["pairing=neighbour", "pairing.mine=true"]
        if name != "image_text":  # a part of others
            found.append(Row(name, name, (*extra, *SETTINGS.get(name, ()))))
    mined = ("pairing=neighbour", "pairing.mine=true")
    guided = ("simclr", "simsiam", "nnclr", "byol", "barlow_twins")
    found += [Row(f"lg_{name}", name, (*mined, *SETTINGS.get(name, ()))) for name in guided]
    return [*found, Row("trex_plain", "trex", ("data.where.label.min=0", "method.memory_size=0"))]


def command(row: Row, seed: int, steps: int, anchors: int, runs: Path, full_heads: bool) -> list[str]:
    """What is typed after `train.py`."""
    from lgrep.config.compose import compose_config

    backbone = (
        ["backbone=vit_tiny_small", "+backbone.options.depth=6"] if row.method in PATCHED else ["backbone=tiny_resnet"]
    )
    chosen = [f"method={row.method}", *backbone, "backbone.image_size=48", *COMMON, *row.overrides]
    if not any(override.startswith("pairing") for override in row.overrides) or row.method not in SIBLINGS:
        chosen.append(f"loader.batch_size={anchors}")
    else:
        chosen.append(f"loader.batch_size={anchors * 2 // SIBLINGS[row.method]}")
    chosen += [f"duration.steps={steps}", f"seed={seed}", f"name={row.name}", f"paths.runs={runs}"]
    if compose_config("train", chosen)[1]["augment"] == "simclr":  # the default, made for photographs
        chosen.append("augment=drawings")
    if full_heads:
        return chosen
    values, _ = compose_config("train", chosen)
    given = {override.split("=")[0] for override in chosen}
    chosen += [
        f"method.{key}={value}"
        for key, value in HEADS.items()
        if key in values["method"] and f"method.{key}" not in given
    ]
    language = values.get("language", {})
    if language.get("tower", {}).get("name") == "clip":
        chosen += [TOWER, "text.context_length=16"]  # no caption of the set is longer
    if "ClipRocket" in language.get("_target_", ""):
        chosen.append("+language.hidden_dim=512")
    if row.method in CROSS:
        hidden, out = CROSS[row.method]
        chosen.append(f"+language.cross_options={{hidden_dim: {hidden}, out_dim: {out}}}")
    return chosen


def train_all(options: argparse.Namespace, chosen: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """Summaries per row; a failure is printed and leaves its row out."""
    from lgrep.config.compose import compose_config
    from lgrep.errors import LgrepError
    from lgrep.training.fit import train

    summaries: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(chosen, 1):
        for seed in range(options.seeds if row.name in MAIN else 1):
            typed = command(row, seed, options.steps, options.anchors, options.runs, options.full_heads)
            print(f"[{number}/{len(chosen)}] train.py {' '.join(typed)}", flush=True)
            try:
                summaries.setdefault(row.name, []).append(train(*compose_config("train", typed)))
            except LgrepError as error:
                print(f"{row.name}: {error}", flush=True)
    return summaries


def measure(
    summaries: dict[str, list[dict[str, Any]]], chosen: Sequence[Row], out: Path, seeds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Metrics by run folder or reference, the random networks' once per seed; the random network beside each row."""
    from lgrep.evaluation.run import evaluate

    values: dict[str, list[dict[str, float]]] = {}
    beside: dict[str, str] = {}
    for patched in (False, True):
        names = [row.name for row in chosen if (row.method in PATCHED) == patched and row.name in summaries]
        models = [summary["run_dir"] for name in names for summary in summaries[name]]
        if not models:
            continue
        for seed in range(seeds):
            shown = models if seed == 0 else models[:1]  # the first tells which network is drawn at random
            quiet = Console(file=io.StringIO())
            records = evaluate(shown, ["emoji"], out / f"records/seed{seed}", seed, console=quiet, resume=True)
            found: dict[str, dict[str, float]] = {}
            for record in records:
                found.setdefault(record["model"]["name"], {}).update(record["values"])
            for name, measured in found.items():
                if name.startswith("random/") or name not in values:
                    values.setdefault(name, []).append(measured)
        random = next(name for name in found if name.startswith("random/"))
        beside |= dict.fromkeys(names, random)
    return values, beside


def table(
    summaries: dict[str, list[dict[str, Any]]], values: dict[str, list[dict[str, float]]], beside: dict[str, str]
) -> list[dict[str, Any]]:
    """One dict per line of results.csv, references last."""
    lines = []
    for name, runs in summaries.items():
        line = {"method": name} | summarised([values[run["run_dir"]][0] for run in runs])
        random = statistics.mean(entry["knn"] for entry in values[beside[name]])
        line["above_random_knn"] = round(line["knn"] - random, 4)
        line["loss"] = round(statistics.mean(run["metrics"]["train/loss"] for run in runs), 4)
        line["pictures_per_step"] = runs[0]["budget"]["pictures"] // runs[0]["budget"]["steps"]
        line["steps"] = runs[0]["budget"]["steps"]
        lines.append(line)
    return [
        *lines,
        *({"method": name} | summarised(values[name]) for name in [*dict.fromkeys(beside.values()), "pixels"]),
    ]


def summarised(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Number of seeds, and mean and standard deviation of each metric over them."""
    line: dict[str, Any] = {"seeds": len(found)}
    for metric in METRICS:
        several = [entry[metric] for entry in found]
        line[metric] = round(statistics.mean(several), 4)
        line[f"{metric}_sd"] = round(statistics.stdev(several), 4) if len(several) > 1 else ""
    return line


def write_conditions(path: Path) -> None:
    """What the numbers were measured on and with."""
    from lgrep.files import write_text
    from lgrep.records import provenance

    typed = f"python scripts/benchmark_methods.py {shlex.join(sys.argv[1:])}".strip()
    about = {"command": typed, **provenance()}
    write_text(path, json.dumps(about, indent=1) + "\n")


@program
def main() -> int:
    """Train, measure, write results.csv and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", help="names of rows; default: all")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--anchors", type=int, default=64, help="per step; groups of siblings make as many pictures")
    parser.add_argument("--seeds", type=int, default=3, help="of the main methods; the others have one")
    parser.add_argument("--full-heads", action="store_true", help="heads and text towers as published")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    known = {row.name: row for row in rows()}
    unknown = sorted(set(options.methods or ()) - set(known))
    if unknown:
        parser.error(f"no method {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = [known[name] for name in options.methods or known]
    summaries = train_all(options, chosen)
    lines = table(summaries, *measure(summaries, chosen, options.out, options.seeds))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "results.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    write_conditions(options.out / "conditions.json")
    grid = Grid()
    for column in lines[0]:
        grid.add_column(column)
    for line in lines:
        grid.add_row(*(str(line.get(column, "")) for column in lines[0]))
    Console().print(grid)
    print(f"results.csv and conditions.json are in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
