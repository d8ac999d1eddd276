"""Speed and agreement of the evaluators' inner parts against what one would use instead.

    python benchmarks/evaluation.py --out benchmarks/evaluation                 everything (about 10 minutes on 2 cores)
    python benchmarks/evaluation.py --tasks path --rows 2000 --values 5         part of it, small

Tasks: `path`: 45 costs on clustered features, against scikit-learn's LogisticRegression value by value and lgssl's loop (some of
their values are timed, evenly spaced, and the time of all 45 is extrapolated); `knn`: votes of 200 neighbours against the dense one-hot vote of lightly, solo-learn and
DINOv2; `fewshot`: 5,000 episodes; `accuracy`: top-1 at every cost on the packaged sets' pixels, against scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional

from lgrep.evaluation.cost_path import CostPath, LinearClassifier
from lgrep.evaluation.evaluators.linear_transfer import WEIGHT_DECAYS
from lgrep.evaluation.knn import _votes, knn_predict
from lgrep.evaluation.linear import C_GRID, Scaler, top1
from lgrep.evaluation.linear_backends import CHOOSING, ScikitLearn, UnsquaredPenalty
from lgrep.records import provenance

Row = dict[str, Any]
COSTS = sorted(1 / decay for decay in WEIGHT_DECAYS)
COLUMNS = ("task", "implementation", "seconds", "measured", "faster", "detail")


def clustered(count: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features like a network's: non-negative, correlated (spectrum k^-1.2), related classes, some wrong labels."""
    world, draw = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    spectrum = torch.arange(1, dim + 1) ** -0.6
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=world)).Q
    families = torch.randn(-(-classes // 5), dim, generator=world).repeat_interleave(5, 0)[:classes]
    centres = (families + 0.9 * torch.randn(classes, dim, generator=world)) * spectrum
    labels = torch.randint(classes, (count,), generator=draw)
    spread = 0.5 + 1.5 * torch.rand(count, 1, generator=draw)
    noise = 2.2 * spread * torch.randn(count, dim, generator=draw) * spectrum
    features = torch.relu((centres[labels] + noise) @ turn + 0.3)
    wrong = torch.rand(count, generator=draw) < 0.03
    return features, torch.where(wrong, torch.randint(classes, (count,), generator=draw), labels)


def objective(fitted: LinearClassifier, features: Tensor, labels: Tensor, c: float) -> float:
    """scikit-learn's objective divided by C N, in float64."""
    logits = features.double() @ fitted.weight.double().T + fitted.bias.double()
    penalty = float(fitted.weight.double().square().sum()) / (2 * c * len(labels))
    return float(functional.cross_entropy(logits, labels)) + penalty


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def fastest(function: Callable[[], Any], repeats: int = 5) -> float:
    return min(timed(function)[0] for _ in range(repeats))


def evenly(values: list[float], count: int) -> list[float]:
    count = min(count, len(values))
    return [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]


def path(options: argparse.Namespace, details: list[Row]) -> Iterator[Row]:
    dtype = getattr(torch, options.dtype)
    train, labels = clustered(options.rows, options.dim, options.classes, seed=0)
    test, test_labels = clustered(4000, options.dim, options.classes, seed=1)
    scaler = Scaler.fit(train)
    train, test = scaler(train).to(dtype), scaler(test).to(dtype)

    def whole() -> dict[float, LinearClassifier]:
        fits = CostPath(train, labels, options.classes, CHOOSING)
        return {c: fits.fit(c) for c in COSTS}

    CostPath(train[:500], labels[:500], options.classes).fit(1.0)  # libraries load on first use
    seconds, mine = timed(whole)
    yield {"task": "path", "implementation": "lgrep", "seconds": seconds, "measured": "45 of 45"}
    chosen, spent = evenly(COSTS, options.values), 0.0
    ratios, points = [], []
    for c in chosen:
        fits = ScikitLearn(train, labels, options.classes)
        taken, other = timed(lambda c=c, fits=fits: fits.fit(c))
        spent += taken
        values = objective(mine[c], train, labels, c), objective(other, train, labels, c)
        accuracy = top1(mine[c].predict(test), test_labels), top1(other.predict(test), test_labels)
        ratios.append(values[0] / values[1])
        points.append(100 * (accuracy[0] - accuracy[1]))
        details.append({"c": f"{c:.6g}", "lgrep_objective": values[0], "sklearn_objective": values[1],
                        "lgrep_top1": accuracy[0], "sklearn_top1": accuracy[1], "sklearn_seconds": taken,
                        "sklearn_iterations": other.steps})  # fmt: skip
        print(f"  C={c:9.3g} objective {values[0]:.6g} / {values[1]:.6g} top-1 {accuracy[0]:.4f} / {accuracy[1]:.4f} "
              f"{taken:.2f} s", flush=True)  # fmt: skip
    fair = sum(ratio <= 1.001 or abs(point) <= 0.2 for ratio, point in zip(ratios, points, strict=True))
    total = spent * len(COSTS) / len(chosen)
    yield {"task": "path", "implementation": "scikit-learn, value by value", "seconds": total, "faster": total / seconds,
           "measured": f"{len(chosen)} of 45", "detail": f"lgrep's objective / this one's: {min(ratios):.4f} to {max(ratios):.6f}; "
           f"objective <= x 1.001 or top-1 within 0.2 points at {fair} of {len(chosen)}"}  # fmt: skip
    chosen = [1e2, 1e4, 1.0, 1e6, 1e-2][: options.lgssl_values]
    if not chosen:
        return
    spent = sum(timed(lambda c=c: UnsquaredPenalty(train, labels, options.classes).fit(c))[0] for c in chosen)
    total = spent * len(COSTS) / len(chosen)
    yield {"task": "path", "implementation": "lgssl's loop (its own objective)", "seconds": total, "faster": total / seconds,
           "measured": f"{len(chosen)} of 45"}  # fmt: skip


def dense_vote(nearest: Tensor, voted: Tensor, classes: int, temperature: float) -> Tensor:
    """What the peers do: a one-hot row per neighbour, weighted and summed."""
    weight = (nearest / temperature).exp()
    one_hot = torch.zeros(nearest.numel(), classes).scatter_(1, voted.reshape(-1, 1), 1.0)
    return (one_hot.view(len(nearest), -1, classes) * weight[:, :, None]).sum(1).argmax(1)


def knn(options: argparse.Namespace, _: list[Row]) -> Iterator[Row]:
    classes, k, temperature, block = 1000, 200, 0.07, 256
    gallery, labels = clustered(options.gallery, 256, classes, seed=0)
    queries, _labels = clustered(block, 256, classes, seed=1)
    unit = functional.normalize(gallery, dim=1)
    nearest, index = (functional.normalize(queries, dim=1) @ unit.T).topk(k)
    voted = labels[index]
    sparse = fastest(lambda: dict(_votes(nearest, voted, [k], classes, temperature)), 20)
    dense = fastest(lambda: dense_vote(nearest, voted, classes, temperature))
    same = bool(
        (
            dict(_votes(nearest, voted, [k], classes, temperature))[k]
            == dense_vote(nearest, voted, classes, temperature)
        ).all()
    )
    size = f"{block} queries, k={k}, {classes} classes"
    yield {"task": "knn vote", "implementation": "lgrep", "seconds": sparse, "detail": size}
    yield {
        "task": "knn vote",
        "implementation": "dense one-hot",
        "seconds": dense,
        "faster": dense / sparse,
        "detail": f"same classes: {same}",
    }
    whole = fastest(lambda: knn_predict(gallery, labels, queries, k, classes, temperature))
    yield {
        "task": "knn",
        "implementation": "lgrep",
        "seconds": whole,
        "detail": f"{size}, gallery {options.gallery} x 256",
    }
    from lightly.utils.benchmarking.knn import knn_predict as lightly_knn

    unit_queries, bank = functional.normalize(queries, dim=1), unit.T.contiguous()
    peer = fastest(lambda: lightly_knn(unit_queries, bank, labels, classes, k, temperature), 3)
    yield {"task": "knn", "implementation": "lightly knn_predict", "seconds": peer, "faster": peer / whole}


def fewshot(options: argparse.Namespace, _: list[Row]) -> Iterator[Row]:
    from lgrep.evaluation.episodes import classify, draw_episodes

    train, labels = clustered(options.rows, options.dim, options.classes, seed=0)
    test, test_labels = clustered(4000, options.dim, options.classes, seed=1)

    def run() -> Tensor:
        hits = [
            (classify(train, test, some), some.valid.sum((1, 2))) for some in draw_episodes(labels, test_labels, 5000)
        ]
        right, asked = (torch.cat(parts) for parts in zip(*hits, strict=True))
        return (right.double() / asked).mean()

    seconds, accuracy = timed(run)
    yield {
        "task": "fewshot",
        "implementation": "lgrep",
        "seconds": seconds,
        "detail": f"5,000 episodes, accuracy {float(accuracy):.4f}",
    }


def accuracy(_: argparse.Namespace, details: list[Row]) -> Iterator[Row]:
    from lgrep.evaluation.datasets.digits import DigitsSet
    from lgrep.evaluation.datasets.emoji import EmojiSet
    from lgrep.evaluation.subjects import load_models
    from lgrep.evaluation.tasks import Resources, make_task

    for dataset in (EmojiSet(), DigitsSet()):
        for model in load_models([]):
            subject = model.on(dataset)
            task = make_task(subject, dataset, Resources(progress=False))
            (train, labels), (test, test_labels) = task.split("train"), task.split("test")
            scaler = Scaler.fit(train)
            train, test = scaler(train), scaler(test)
            fits = CostPath(train, labels, dataset.num_classes)
            seconds, mine = timed(lambda fits=fits: {c: fits.fit(c) for c in C_GRID})
            others = ScikitLearn(train, labels, dataset.num_classes, tolerance=1e-6, max_iterations=2000)
            peer_seconds, peers = timed(lambda others=others: {c: others.fit(c) for c in C_GRID})
            points = [
                100 * (top1(mine[c].predict(test), test_labels) - top1(peers[c].predict(test), test_labels))
                for c in C_GRID
            ]
            name = f"{subject.name} on {dataset.name}"
            yield {"task": "accuracy", "implementation": f"lgrep, {name}", "seconds": seconds, "faster": peer_seconds / seconds,
                   "measured": f"{len(C_GRID)} costs", "detail": f"top-1 minus scikit-learn's (tol 1e-6): "
                   f"{min(points):+.2f} to {max(points):+.2f} points of {len(test_labels)} pictures"}  # fmt: skip


TASKS: dict[str, Callable[[argparse.Namespace, list[Row]], Iterator[Row]]] = {
    "path": path,
    "knn": knn,
    "fewshot": fewshot,
    "accuracy": accuracy,
}


def write(folder: Path, rows: list[Row], details: list[Row], options: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if details:
        with (folder / "path.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(details[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(details)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    conditions = {
        "command": " ".join(["python", "benchmarks/evaluation.py", *sys.argv[1:]]),
        "settings": settings,
        **provenance(),
    }
    (folder / "conditions.json").write_text(json.dumps(conditions, indent=1) + "\n")
    lines = [f"| {row['task']} | {row['implementation']} | {row['seconds']:.3g} | "
             f"{row.get('faster', 0):.1f} | {row.get('measured', '')} | {row.get('detail', '')} |".replace("| 0.0 |", "| |") for row in rows]  # fmt: skip
    head = "# Evaluation\n\nWritten by the command in `conditions.json`; `path.csv` has every measured cost.\n\n"
    table = "| task | implementation | seconds | lgrep faster by | values | detail |\n|---|---|---|---|---|---|\n"
    (folder / "README.md").write_text(head + table + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--gallery", type=int, default=50_000)
    parser.add_argument("--values", type=int, default=45, help="costs at which scikit-learn is timed")
    parser.add_argument("--lgssl-values", type=int, default=3, help="costs at which lgssl's loop is timed")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for README.md, results.csv, path.csv and conditions.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows: list[Row] = []
    details: list[Row] = []
    for task in options.tasks:
        for row in TASKS[task](options, details):
            rows.append(row)
            print(f"{row['task']:10s} {row['implementation']:36s} {row['seconds']:9.4f} s  "
                  f"{row.get('faster', float('nan')):7.1f} x  {row.get('detail', '')}", flush=True)  # fmt: skip
    if options.out:
        write(options.out, rows, details, options)


if __name__ == "__main__":
    main()
