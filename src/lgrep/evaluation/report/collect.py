"""Records read back, runs of one recipe put together."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lgrep.checkpoints.heads import split_features
from lgrep.errors import DataError

Key = tuple[str, str, str]  # data set, evaluation, metric


@dataclass
class Cell:
    """Values of one metric, one per seed.

    Attributes:
        values: as measured.
        records: file of each.
    """

    values: list[float] = field(default_factory=list)
    records: list[Path] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.mean(self.values)

    @property
    def interval(self) -> float | None:
        """Half of the 95 % confidence interval of the mean (Student's t over seeds); None for a single one."""
        count = len(self.values)
        if count < 2:
            return None
        from scipy.stats import t

        return float(t.ppf(0.975, count - 1)) * statistics.stdev(self.values) / math.sqrt(count)


@dataclass
class Collected:
    """What a report is about.

    Attributes:
        models: names of rows, in the order measured; the runs of each (names as evaluated).
        columns: headline metrics.
        cells: (row, column) -> values.
        chance: column -> what guessing gives.
        records: all records, each with `file`.
        notes: footnotes with the columns they belong to.
    """

    models: dict[str, list[str]]
    columns: list[Key]
    cells: dict[tuple[str, Key], Cell]
    chance: dict[Key, float]
    records: list[dict[str, Any]]
    notes: list[str]


def read_records(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """All records below some folders, oldest first; `file` says where each lies.

    Raises:
        DataError: a folder without records, or a damaged one.
    """
    found = []
    for folder in map(Path, folders):
        files = sorted(folder.rglob("records/*.json")) or sorted(folder.glob("*.json"))
        records = []
        for path in files:
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(
                    f"the record {path} is damaged ({error}). Remove it and type evaluate.py again"
                ) from error
            if isinstance(record, dict) and {"dataset", "evaluator", "values", "model"} <= record.keys():
                records.append({**record, "file": path})
        if not records:
            raise DataError(f"{folder} has no evaluation records. Type python evaluate.py model=... out={folder} first")
        found += records
    return sorted(found, key=lambda record: (record.get("time", ""), str(record["file"])))


def collect(records: Sequence[dict[str, Any]], together: bool = True) -> Collected:
    """Rows, columns and cells.

    Args:
        records: from `read_records`.
        together: runs whose configurations differ by the seed alone are one row.
    """
    models: dict[str, list[str]] = {}
    columns: list[Key] = []
    cells: dict[tuple[str, Key], Cell] = {}
    chance: dict[Key, float] = {}
    for record in records:
        run = record["model"]["name"]
        row = recipe_of(run) if together else run
        if run not in models.setdefault(row, []):
            models[row].append(run)
        for metric in record.get("headline") or list(record["values"])[:1]:
            key = (record["dataset"], record.get("evaluation", record["evaluator"]), metric)
            if key not in columns:
                columns.append(key)
            cell = cells.setdefault((row, key), Cell())
            cell.values.append(float(record["values"][metric]))
            cell.records.append(record["file"])
            if f"chance_{metric}" in record["values"]:
                chance[key] = float(record["values"][f"chance_{metric}"])
    return Collected(models, columns, cells, chance, list(records), _notes(records))


def recipe_of(run: str) -> str:
    """What runs that differ by their seed alone share: the name and configuration of a run folder, else its own name."""
    place, features = split_features(run)
    folder = Path(place)
    config = next(
        (path for path in (folder, folder.parent, *folder.glob("*")) if (path / "config.yaml").is_file()), None
    )
    if config is None:
        return run
    from omegaconf import OmegaConf

    from lgrep.config.identity import identity

    values: Any = OmegaConf.to_container(OmegaConf.load(config / "config.yaml"), resolve=False)
    if not isinstance(values, dict):
        return run
    recipe = f"{config.parent.name} {identity({**values, 'seed': 0})}"
    return recipe if features == "backbone" else f"{recipe}:{features}"


def _notes(records: Sequence[dict[str, Any]]) -> list[str]:
    """Footnotes of data sets, and a warning wherever one column mixes protocols."""
    notes: dict[str, None] = {}
    protocols: dict[tuple[str, str], set[str]] = {}
    for record in records:
        for note in record.get("notes") or ():
            notes[f"{record['dataset']}: {note}"] = None
        key = (record["dataset"], record.get("evaluation", record["evaluator"]))
        about = json.dumps([_settled(record["settings"]), record["data_hash"]], sort_keys=True, default=str)
        protocols.setdefault(key, set()).add(about)
    for (dataset, evaluation), seen in protocols.items():
        if len(seen) > 1:
            notes[
                f"{dataset}, {evaluation}: {len(seen)} different settings or versions of the data are in this column"
            ] = None
    return list(notes)


def _settled(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that were given, without what was found while measuring."""
    given = ("k", "vote", "similarity", "standardised", "c_grid", "classes", "test_fold", "val_fold", "ways", "shots",
             "queries", "episodes", "templates", "search", "costs", "metric", "protocol")  # fmt: skip
    return {key: settings[key] for key in given if key in settings}
