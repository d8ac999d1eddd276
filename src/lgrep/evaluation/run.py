"""Evaluate models side by side: one table, one JSON record per number, one CSV."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lgrep.config.spec import build
from lgrep.errors import ConfigError, DataError, LgrepError, did_you_mean
from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.contract import EvaluationSet, Evaluator, Score, Task
from lgrep.evaluation.datasets.catalogue import build_set, expand
from lgrep.evaluation.datasets.missing import MissingDataset
from lgrep.evaluation.evaluators import Node, evaluator_nodes
from lgrep.evaluation.finished import finished_records, identity_of, inputs_of, note_finished, protocol_of
from lgrep.evaluation.isolation import isolated_randomness
from lgrep.evaluation.results import lines_of, results_table, write_csv
from lgrep.evaluation.subjects import Model, load_models
from lgrep.evaluation.tasks import Resources, make_task
from lgrep.files import check_writable, write_text
from lgrep.records import make_record, weights_hash, write_record

DEFAULT_EVALUATORS = ("knn", "linear", "emoji")


def evaluate(
    models: Sequence[str],
    datasets: str | Sequence[str] = ("emoji", "digits"),
    out: str | Path = "evaluation",
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    image_size: int | None = None,
    num_workers: int = 0,
    baselines: bool = True,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    console: Console | None = None,
    evaluators: str | Sequence[str] | Mapping[str, Node | None] = DEFAULT_EVALUATORS,
    cache: FeatureCache | None = None,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Measure every model on every data set by every evaluator that fits, with one pass over a data set's pictures.

    Writes `records/*.json` (with predictions in `.npz` sidecars) as the numbers come, `results.csv` and
    `summary.json` at the end, and prints one table. An evaluator that refuses a model or data set is skipped and
    said so; one that fails does not keep the others from being measured.

    Args:
        models: what `load_encoder` takes. May be empty when `baselines` is on.
        datasets: names of the catalogue, or `all`; sets that are not on this machine are skipped when several are asked for.
        out: folder of the results.
        seed: draws random weights and all that evaluators draw; kept in the records.
        device: where encoders run.
        batch_size: pictures per forward pass.
        image_size: side in px for all models but `pixels`; None takes each model's own.
        num_workers: processes that decode.
        baselines: also measure `pixels` and an untrained network, see `load_models`.
        options: data set -> settings that replace those of its file, for example {"emoji": {"test_fold": 2, "val_fold": 3}}.
        console: where the table goes.
        evaluators: names of files in `configs/evaluation`, or name -> node with `_target_`.
        cache: keeps features for later; None computes them.
        resume: take finished records of `out` for measurements of which nothing changed (weights, data, settings, seed, code).

    Returns:
        The records, in the order measured.

    Raises:
        ConfigError: unknown model, data set, evaluator or setting, or nothing to evaluate.
        CheckpointError: a checkpoint that cannot be used.
        DataError: the only data set is missing or damaged.
        Exception: the first that an evaluator raised, after all others were measured.
    """
    console = console or Console()
    nodes = evaluator_nodes(evaluators)
    names = expand(list(datasets) if not isinstance(datasets, str) else datasets)
    chosen = _checked_options(options or {}, names)
    loaded = load_models(models, image_size, seed, baselines)
    if not names or not loaded or not nodes:
        raise ConfigError("nothing to evaluate: name a data set, an evaluator and a model, or switch baselines on")
    resources = Resources(_device(device), batch_size, num_workers, cache)
    run = _Run(Path(out), nodes, resources, seed, resume)
    sets = run.open(names, chosen)
    if not sets and not run.failures:
        raise MissingDataset(f"none of the data sets is here: {'; '.join(lines_of(run.skipped, 0))}")
    check_writable(run.out, "out")
    try:
        for model in loaded:
            run.measure(model, sets)
    finally:
        run.finish(console, [model.subject.name for model in loaded])
    if run.failures:
        raise run.failures[0]
    if not run.records:
        raise ConfigError("nothing was measured: no evaluator takes these models and data sets. Type evaluation=[...]")
    return run.records


@dataclass
class _Run:
    """What is measured, and what came of it."""

    out: Path
    nodes: dict[str, dict[str, Any]]
    resources: Resources
    seed: int
    resume: bool
    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    reused: int = 0

    def __post_init__(self) -> None:
        self.evaluators: dict[str, Evaluator] = {name: build(node) for name, node in self.nodes.items()}

    def open(self, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> list[EvaluationSet]:
        """The data sets that are there; of several, some may be missing or damaged."""
        sets: list[EvaluationSet] = []
        for name in names:
            try:
                dataset = build_set(name, **options.get(name, {}))
                dataset.parts()
            except DataError as error:
                if len(names) == 1:
                    raise
                if isinstance(error, MissingDataset):
                    self.skipped.append({"dataset": name, "reason": str(error)})
                else:
                    self._fail({"dataset": name}, error)
            else:
                sets.append(dataset)
        return sets

    def measure(self, model: Model, sets: Sequence[EvaluationSet]) -> None:
        """One model on all sets."""
        subject = model.subject
        for dataset in sets:
            task = make_task(model.on(dataset), dataset, self.resources, self.seed)
            inputs = inputs_of(task)
            for name, evaluator in self.evaluators.items():
                about = {"evaluation": name, "dataset": dataset.name, "model": subject.name}
                try:
                    self._one(task, inputs, name, evaluator)
                except Exception as error:
                    self._fail(about, error)
            subject.encoder.cpu()
            if weights_hash(subject.encoder) != subject.weights_hash:
                raise LgrepError(
                    f"the weights or buffers of {subject.name} changed while it was evaluated on {dataset.name}"
                )

    def _one(self, task: Task, inputs: Mapping[str, Any] | None, name: str, evaluator: Evaluator) -> None:
        reason = evaluator.refusal(task)
        if reason is not None:
            about = {"evaluation": name, "dataset": task.dataset.name, "model": task.subject.name}
            self.skipped.append({**about, "reason": reason})
            return
        settings = dict(getattr(task.dataset, "settings", {}))
        cache = self.resources.cache
        protocol = protocol_of(task, self.nodes[name], settings, cache.dtype if cache else "float32")
        identity = identity_of(inputs, self.nodes[name], protocol)
        known = finished_records(self.out, identity) if self.resume and identity is not None else None
        if known is not None:
            self.records += known
            self.reused += 1
            return
        extra: dict[str, Any] = {
            "evaluation": name,
            "protocol": protocol,
            "identity": identity,
            "dataset_settings": settings,
        }
        extra |= {"notes": list(task.dataset.notes)}
        files, begun = [], time.perf_counter()
        with isolated_randomness(self.seed, self.resources.device):
            for score in evaluator(task):
                record = {**_record(task, score), **extra, "seconds": round(time.perf_counter() - begun, 3)}
                files.append(write_record(record, self.out / "records").name)
                self.records.append(record)
        if identity is not None:
            note_finished(self.out, identity, files)

    def _fail(self, about: Mapping[str, str], error: Exception) -> None:
        self.failed.append({**about, "reason": f"{type(error).__name__}: {error}"})
        self.failures.append(error)

    def finish(self, console: Console, models: Sequence[str]) -> None:
        """Write the overview and print the table."""
        if self.records:
            write_csv(self.records, self.out / "results.csv")
            console.print(results_table(self.records))
        lines = [f"skipped: {line}" for line in lines_of(self.skipped, len(models))]
        lines += [f"failed: {line}" for line in lines_of(self.failed, len(models))]
        if self.reused:
            lines.append(f"{self.reused} measurements were done before and are not repeated. resume=never repeats them")
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        measured = [
            {
                "model": record["model"]["name"],
                **{key: record[key] for key in ("dataset", "evaluation", "evaluator", "protocol")},
            }
            for record in self.records
        ]
        summary = {"models": list(models), "evaluators": self.nodes, "seed": self.seed, "measured": measured}
        summary |= {"skipped": self.skipped, "failed": self.failed}
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, default=str) + "\n")


def _record(task: Task, score: Score) -> dict[str, Any]:
    subject, dataset = task.subject, task.dataset
    encoder, transform = subject.encoder, subject.transform
    about = {
        "name": subject.name,
        "backbone": getattr(encoder, "name", None),
        "options": getattr(encoder, "options", None),
        "dim": getattr(encoder, "dim", None),
        "transform": asdict(transform)
        if is_dataclass(transform) and not isinstance(transform, type)
        else repr(transform),
        "text": subject.text is not None,
    }
    record = make_record(
        dataset.name,
        score.evaluator,
        score.settings,
        dict(score),
        about,
        subject.weights_hash,
        dataset.data_hash,
        task.seed,
        subject.budget,
        score.predictions,
    )
    return {**record, "headline": list(score.headline)}


def _device(name: torch.device | str) -> torch.device:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name} cannot be used here ({str(error).splitlines()[0][:90]}). Type device=auto"
        ) from error
    return torch.device(name)


def _checked_options(options: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Options by data set; a set that is a file may be called by the file's stem."""
    by_stem = {Path(name).stem if name.endswith((".yaml", ".yml")) else name: name for name in names}
    unknown = sorted(set(options) - set(by_stem) - set(names))
    if unknown:
        raise ConfigError(
            f"options.{unknown[0]}: this data set is not evaluated; {did_you_mean(unknown[0], by_stem)} Type dataset=[...]"
        )
    return {by_stem.get(name, name): given for name, given in options.items()}
