"""A recipe on all folds of the emoji set, beside raw pixels and a random network: `python benchmarks/folds.py --out benchmarks/folds`.

The rotation that the protocol asks of claims (docs/data_card_emoji.md): every fold is the test fold once, the next one the
validation fold, the other three train. Trains each fold with each seed, `--jobs` at a time on one thread each (what is
finished is kept), evaluates the backbone and `:both`, and writes results.csv (a row per fold, seed and model), summary.csv
(means over folds and seeds, and the margin over the better baseline with its 95 % bootstrap interval over clusters of
near-duplicate captions and seeds) and conditions.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lgrep.checkpoints.heads import split_features
from lgrep.data.emoji import FOLDS
from lgrep.evaluation.datasets.emoji import EmojiSet
from lgrep.records import provenance, read_predictions

ROOT = Path(__file__).resolve().parents[1]
# metric -> (evaluation, predictions)
METRICS = {"knn": ("knn", "knn"), "linear": ("linear", "linear"), "R@1": ("emoji", "rank")}
BASELINES = ("pixels", "random")
DRAWS = 10_000


def after(fold: int) -> int:
    """The validation fold."""
    return (fold + 1) % FOLDS


def train(options: argparse.Namespace, fold: int, seed: int) -> None:
    folds = [f"data.test_fold={fold}", f"data.val_fold={after(fold)}", f"paths.runs={options.work}"]
    command = ["train.py", f"+experiment={options.recipe}", f"name=fold{fold}_seed{seed}", f"seed={seed}"]
    print(" ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, *command, *folds, "trainer.threads=1"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def evaluate(options: argparse.Namespace, fold: int) -> list[Path]:
    """Records of all seeds and the baselines on one test fold."""
    runs = [f"{options.work}/fold{fold}_seed{seed}" for seed in options.seeds]
    out = Path(options.work) / "evaluations" / f"fold{fold}"
    models = ",".join(f"{run},{run}:both" for run in runs)
    folds = [f"options.emoji.test_fold={fold}", f"options.emoji.val_fold={after(fold)}"]
    command = [sys.executable, "evaluate.py", f"model=[{models}]", "dataset=emoji", *folds, f"out={out}"]
    subprocess.run(command, check=True, cwd=ROOT)
    return sorted((ROOT / out / "records").glob("*.json"))


def kind(model: str) -> tuple[str, int | None]:
    """What a model is in the table, and its seed."""
    run, features = split_features(model)
    if not run.rpartition("/")[2].startswith("fold"):
        return ("random" if run.startswith("random") else run), None
    return features, int(run.rpartition("_seed")[2])


def gather(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[tuple[str, str], dict[Any, list[float]]]]:
    """Rows of results.csv; right or wrong per query: (metric, model) -> (cluster, seed) -> list."""
    rows: dict[tuple[int, str, int | None], dict[str, Any]] = {}
    right: dict[tuple[str, str], dict[Any, list[float]]] = {}
    for fold in range(FOLDS):
        dataset = EmojiSet(test_fold=fold, val_fold=after(fold))
        labels = dataset.parts()["test"].labels.numpy()
        clusters = {name: dataset.caption_clusters(name).numpy() for name in ("test", "query")}
        for path in evaluate(options, fold):
            record, arrays = json.loads(path.read_text(encoding="utf-8")), read_predictions(path)
            model, seed = kind(record["model"]["name"])
            for metric, (evaluation, name) in METRICS.items():
                if record["evaluation"] != evaluation or metric not in record["values"]:
                    continue
                row = rows.setdefault((fold, model, seed), {"fold": fold, "model": model, "seed": seed})
                row[metric] = round(record["values"][metric], 4)
                hits = arrays[name] == (1 if name == "rank" else labels)
                for cluster, hit in zip(clusters["query" if name == "rank" else "test"], hits, strict=True):
                    right.setdefault((metric, model), {}).setdefault((int(cluster), seed), []).append(float(hit))
    order = {"backbone": 0, "both": 1, "random": 2, "pixels": 3}
    return sorted(rows.values(), key=lambda row: (row["fold"], order[row["model"]], row["seed"] or 0)), right


def margin(own: dict[Any, list[float]], other: dict[Any, list[float]], seeds: list[int]) -> tuple[float, float, float]:
    """Mean difference over queries and its 95 % interval, resampling clusters and seeds."""
    clusters = sorted({cluster for cluster, _ in own})
    size = np.array([len(own[cluster, seeds[0]]) for cluster in clusters])
    gain = np.array([[sum(own[c, seed]) - sum(other[c, None]) for seed in seeds] for c in clusters])
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        weight = np.bincount(rng.integers(len(clusters), size=len(clusters)), minlength=len(clusters))
        chosen = rng.integers(len(seeds), size=len(seeds))
        drawn.append((weight @ gain[:, chosen].mean(axis=1)) / (weight @ size))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(gain.mean(axis=1).sum() / size.sum()), float(low), float(high)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="stablerep_emoji")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--work", default="runs/rotation", help="where runs and records go")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        list(
            pool.map(
                lambda job: train(options, *job), [(fold, seed) for seed in options.seeds for fold in range(FOLDS)]
            )
        )
    rows, right = gather(options)
    summary = []
    for metric in METRICS:
        mean = {
            model: float(np.mean([row[metric] for row in rows if row["model"] == model]))
            for model in ("backbone", "both", *BASELINES)
        }
        better = max(BASELINES, key=lambda model: mean[model])
        for model in ("backbone", "both"):
            gain, low, high = margin(right[metric, model], right[metric, better], options.seeds)
            values = {"mean": mean[model], "baseline_mean": mean[better], "margin": gain, "low": low, "high": high}
            summary.append(
                {"metric": metric, "model": model, "baseline": better, **{k: round(v, 4) for k, v in values.items()}}
            )
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "results.csv", rows)
    write(options.out / "summary.csv", summary)
    command = " ".join(["python", "benchmarks/folds.py", *sys.argv[1:]])
    (options.out / "conditions.json").write_text(json.dumps({"command": command, **provenance()}, indent=1) + "\n")
    for line in summary:
        print(line)


if __name__ == "__main__":
    main()
