"""Evaluate models side by side: one table, one JSON record per number, one CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from torch import nn

from lgrep.checkpoints.encoder import (
    PIXELS_SIZE,
    EvaluationTransform,
    is_checkpoint,
    load_encoder,
    random_encoder,
    read_checkpoint,
)
from lgrep.errors import ConfigError, LgrepError
from lgrep.evaluation.features import extract_features
from lgrep.evaluation.protocols.base import EvaluationSet, build_set
from lgrep.records import make_record, weights_hash, write_record, write_text

RANDOM_NAME, RANDOM_SIZE = "timm/test_resnet", 48  # the untrained baseline when no checkpoint sets an example
CSV_COLUMNS = ("model", "dataset", "evaluator", "metric", "value", "weights_hash", "data_hash", "seed")


@dataclass
class _Model:
    name: str
    encoder: nn.Module
    transform: EvaluationTransform
    own_statistics: bool  # False: normalised by the data set's training statistics
    budget: dict[str, Any] | None = None


def evaluate(
    models: Sequence[str],
    datasets: Sequence[str] = ("emoji", "digits"),
    out: str | Path = "evaluation",
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    image_size: int | None = None,
    num_workers: int = 0,
    baselines: bool = True,
    options: dict[str, dict[str, Any]] | None = None,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Measure every model on every data set with one pass of its pictures each.

    Writes `records/*.json` (with predictions in `.npz` sidecars) as the numbers come, `results.csv` at the
    end, and prints one table.

    Args:
        models: what `load_encoder` takes. May be empty when `baselines` is on.
        datasets: registered evaluation data sets.
        out: folder of the results.
        seed: draws random weights; kept in the records.
        device: where encoders run; the evaluators run on the CPU.
        batch_size: pictures per forward pass.
        image_size: side in px for all models but `pixels`; None takes each model's own.
        num_workers: processes that decode.
        baselines: also measure `pixels` (24 px) and `random`: the network, options and picture size of the
            first checkpoint among `models`, `timm/test_resnet` at 48 px when there is none.
        options: data set -> arguments of its protocol, for example {"emoji": {"test_fold": 2, "val_fold": 3}}.
        console: where the table goes.

    Returns:
        The records, in the order measured.

    Raises:
        ConfigError: unknown model or data set, or nothing to evaluate.
        CheckpointError: a checkpoint that cannot be used.
        DataError: pictures that cannot be decoded, features that are not finite.
    """
    console = console or Console()
    unknown = sorted(set(options or {}) - set(datasets))
    if unknown:
        raise ConfigError(f"options given for {', '.join(unknown)}, which is not among the data sets: {list(datasets)}")
    sets = [build_set(name, **(options or {}).get(name, {})) for name in dict.fromkeys(datasets)]
    loaded = _load(list(dict.fromkeys(models)), image_size, seed, baselines)
    if not sets or not loaded:
        raise ConfigError("nothing to evaluate: name at least one data set and one model, or switch baselines on")
    records: list[dict[str, Any]] = []
    for model in loaded:
        before = weights_hash(model.encoder)
        for dataset in sets:
            transform = model.transform
            if not model.own_statistics:
                transform = replace(transform, mean=dataset.mean, std=dataset.std)
            text = f"{model.name} on {dataset.name}"
            features = extract_features(
                model.encoder, dataset.pictures(), transform, batch_size, device, num_workers, progress=text
            )
            for record in _measure(model, dataset, features, transform, before, seed):
                write_record(record, Path(out) / "records")
                records.append(record)
        model.encoder.cpu()
        if weights_hash(model.encoder) != before:
            raise LgrepError(f"the weights or buffers of {model.name} changed while it was evaluated")
    _write_csv(records, Path(out) / "results.csv")
    console.print(results_table(records))
    return records


def results_table(records: Sequence[dict[str, Any]]) -> RichTable:
    """Models as rows, the headline metrics of every evaluator as columns."""
    columns: list[tuple[str, str]] = []
    cells: dict[str, dict[tuple[str, str], float]] = {}
    chance: dict[tuple[str, str], float] = {}
    for record in records:
        for metric in record["headline"]:
            column = (record["dataset"], metric)
            columns += [column] if column not in columns else []
            cells.setdefault(record["model"]["name"], {})[column] = record["values"][metric]
            if f"chance_{metric}" in record["values"]:
                chance[column] = record["values"][f"chance_{metric}"]
    table = RichTable(caption="all metrics, settings and predictions are in the records", box=box.SIMPLE_HEAD)
    table.add_column("model", overflow="fold", min_width=16)
    for dataset, metric in columns:
        table.add_column(f"{dataset}\n{metric.replace('_per_class', ' per class')}", justify="right")
    for name, row in cells.items():
        table.add_row(name, *(f"{row[column]:.3f}" if column in row else "-" for column in columns))
    if chance:
        table.add_section()
        table.add_row("chance", *(f"{chance[column]:.3f}" if column in chance else "" for column in columns))
    return table


def _load(names: list[str], image_size: int | None, seed: int, baselines: bool) -> list[_Model]:
    loaded = [_named(name, image_size, seed) for name in names if name != "random"]
    if baselines or "random" in names:
        loaded.append(_random_beside(names, loaded, image_size, seed))
    if baselines and "pixels" not in names:
        loaded.append(_named("pixels", None, seed))
    return loaded


def _named(name: str, image_size: int | None, seed: int) -> _Model:
    size = PIXELS_SIZE if name == "pixels" else image_size
    encoder, transform = load_encoder(name, size, seed=seed)
    if is_checkpoint(name):
        about = read_checkpoint(name)["lgrep"]
        return _Model(name, encoder, transform, True, about.get("budget") or {"steps": about.get("step")})
    return _Model(name, encoder, transform, own_statistics=name != "pixels" and not name.startswith("random/"))


def _random_beside(names: list[str], loaded: list[_Model], image_size: int | None, seed: int) -> _Model:
    """The untrained network: like the first checkpoint's, else the small default."""
    example = next((model for model in loaded if is_checkpoint(model.name)), None)
    if example is None:
        name, options, size = RANDOM_NAME, {}, image_size or RANDOM_SIZE
        encoder = random_encoder(name, size, seed)
    else:
        name, options, size = str(example.encoder.name), dict(example.encoder.options), example.transform.size  # type: ignore[arg-type]
        built_size = options.pop("image_size", None)
        encoder = random_encoder(name, size if built_size is not None else None, seed, **options)
    return _Model(f"random/{name}", encoder.eval(), EvaluationTransform(size), own_statistics=False)


def _measure(
    model: _Model,
    dataset: EvaluationSet,
    features: torch.Tensor,
    transform: EvaluationTransform,
    weights: str,
    seed: int,
) -> list[dict[str, Any]]:
    about = {
        "name": model.name,
        "backbone": getattr(model.encoder, "name", None),
        "options": getattr(model.encoder, "options", None),
        "dim": features.shape[1],
        "transform": vars(transform),
    }
    records = []
    for score in dataset.scores(features):
        record = make_record(
            dataset.name,
            score.evaluator,
            score.settings,
            dict(score),
            about,
            weights,
            dataset.data_hash,
            seed,
            model.budget,
            score.predictions,
        )
        records.append(record | {"headline": list(score.headline)})
    return records


def _write_csv(records: Sequence[dict[str, Any]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records:
        identity = (record["model"]["name"], record["dataset"], record["evaluator"])
        for metric, value in record["values"].items():
            hashes = (record["weights_hash"], record["data_hash"], record["seed"])
            writer.writerow((*identity, metric, f"{value:.6f}", *hashes))
    write_text(path, text.getvalue())
