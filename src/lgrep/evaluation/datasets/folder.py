"""Any labelled pictures of the user's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from lgrep.data.notices import notice, shown
from lgrep.data.sources.listing import check_folder
from lgrep.data.table import Table, open_set
from lgrep.errors import DataError
from lgrep.evaluation.contract import Metric
from lgrep.evaluation.datasets.labelled import Labelled, labelled
from lgrep.evaluation.datasets.listed import Keys, Listed, read_text, readable
from lgrep.evaluation.datasets.names import templates_of
from lgrep.evaluation.datasets.readers import Folders
from lgrep.evaluation.datasets.split_files import ALIASES
from lgrep.evaluation.datasets.splitting import Share, SplitRule, drawn_parts
from lgrep.evaluation.datasets.table_set import Rows, TableSet, rows_by_part

_COLUMNS = {
    "file": ("file", "path", "filename", "image", "picture"),
    "label": ("label", "class", "labels", "classes", "category"),
    "part": ("part", "split", "set"),
    "caption": ("caption", "text"),
}
_LISTS = ("labels.csv", "data.csv", "metadata.csv")


class FolderSet(TableSet):
    """Labelled pictures in folders, in a CSV file, or in a set that scripts/prepare_data.py wrote.

    - Folders: `train`, `val` (or `valid`, `validation`, `dev`) and `test`, each with a folder per class; `val` tests
      where there is no `test`. A folder with class folders only is split within every class.
    - CSV: columns `file`, and any of `label`, `part` and `caption`; several captions of a picture are several rows;
      several classes are separated by `|`. Rows without a part are split within every class.
    - A prepared set (`set.json`) with labels; its column `part` or `split`, if there is one, gives the parts.

    Args:
        root: the folder.
        name: of the set.
        csv: the list, below the root or anywhere; null: `labels.csv`, `data.csv` or `metadata.csv` in the root, or folders.
        validation, test: shares of every class where the parts are drawn.
        split_seed: of that draw.
        class_names: in the order of the classes; null: those in the files.
        templates: prompts.
        metric: what counts.
        max_left_out: largest share of listed pictures that may be absent.
        statistics: `sample` takes channel statistics from up to 512 training pictures, `imagenet` those of ImageNet.

    Raises:
        DataError: missing or contradictory data.
    """

    def __init__(
        self,
        root: str,
        name: str = "folder",
        csv: str | None = None,
        validation: Share = 0.2,
        test: Share = 0.2,
        split_seed: NonNegativeInt = 0,
        class_names: list[str] | None = None,
        templates: list[str] | str = "generic",
        metric: Metric | None = None,
        max_left_out: Annotated[float, Field(ge=0, le=1)] = 0.1,
        statistics: Literal["imagenet", "sample"] = "sample",
    ) -> None:
        folder = check_folder(root, f"options.{name}.root", "with labelled pictures")
        rule = SplitRule(shares={"validation": validation, "test": test}, seed=split_seed)
        notes: list[str] = []
        if (folder / "set.json").is_file():
            rows, keys, captions = _prepared(folder, rule, notes)
        else:
            lists, base = _lists(folder, csv, notes), folder
            found = labelled(name, base, lists, rule, max_left_out=max_left_out)
            rows, keys, captions = _opened(found, notes)
        names = [readable(key) for key in keys] if class_names is None else class_names
        if len(names) != len(keys):
            raise DataError(
                f"{name}: {len(names):,} class_names for {len(keys):,} classes ({', '.join(keys[:5])}, ...)"
            )
        prompts, whose = templates_of(templates)
        several = any(table.has("labels") for table, _ in rows.values())
        for line in notes:
            notice(f"{name}: {line}")
        super().__init__(
            name,
            rows,
            names,
            prompts,
            metric or ("map11" if several else "top1"),
            (*notes, whose),
            None,
            statistics,
            captions,
            settings=rule.model_dump() if any("drawn" in note for note in notes) else {},
        )


def _opened(found: Labelled, notes: list[str]) -> tuple[dict[str, tuple[Table, Rows]], list[str], bool]:
    notes += found.remarks
    return rows_by_part(found.table), found.keys, found.has_captions


def _lists(folder: Path, given: str | None, notes: list[str]) -> dict[str, list[Listed]]:
    """What the CSV file or the folders hold, by part."""
    path = _csv_of(folder, given)
    if path is not None:
        listed = read_csv(path)
        if not listed.parts or "" in listed.parts:
            notes.append("parts are drawn within every class")
        return {"all": [_with_parts(listed, notes)]}
    parts = {ALIASES[child.name.lower()]: child.name for child in sorted(folder.iterdir()) if _is_part(child)}
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
        notes.append(f"there is no folder test: {parts['test']} tests")
    if parts.keys() >= {"train", "test"} or parts.keys() == {"test"}:
        return {part: [Folders(kind="folders", folder=child).read(folder)] for part, child in parts.items()}
    read = Folders(kind="folders", folder=next(iter(parts.values()), ".")).read(folder)
    if not read.files:
        raise DataError(
            f"root={shown(folder)} has no pictures in class folders: it must hold train/CLASS, val/CLASS and test/CLASS, "
            "or CLASS, or a labels.csv with the columns file and label"
        )
    notes.append("parts are drawn within every class")
    return {"all": [read]}


def _with_parts(listed: Listed, notes: list[str]) -> Listed:
    """Validation tests where the list has no test part."""
    parts = set(listed.parts)
    if parts and "" not in parts and "test" not in parts and "validation" in parts:
        listed.parts = ["test" if part == "validation" else part for part in listed.parts]
        notes.append("there is no part test: validation tests")
    return listed


def read_csv(path: Path) -> Listed:
    """The rows of a user's list.

    Raises:
        DataError: no column of paths, an unknown part, or a row without a label where others have one.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    separator = next((mark for mark in (",", "\t", ";") if mark in first), ",")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    if not rows:
        raise DataError(f"{shown(path)} is empty; its first line should read: file,label")
    header = [name.strip().lower() for name in rows[0]]
    place = {
        what: next((header.index(name) for name in names if name in header), None) for what, names in _COLUMNS.items()
    }
    if place["file"] is None:
        raise DataError(f"{shown(path)}: the first line names no column file; it reads {','.join(header)[:80]}")
    columns: dict[str, list[str]] = {what: [] for what in _COLUMNS}
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        if len(row) < len(header):
            raise DataError(f"{shown(path)}: line {number} has {len(row)} columns, the first line has {len(header)}")
        for what, where in place.items():
            columns[what].append("" if where is None else row[where].strip())
        if place["label"] is not None and not columns["label"][-1]:
            raise DataError(f"{shown(path)}: line {number} has no label ({shown(columns['file'][-1])})")
    several = any("|" in label for label in columns["label"])
    keys: list[Keys] = [tuple(label.split("|")) if several else label for label in columns["label"]]
    captions = [[text] if text else [] for text in columns["caption"]]
    return Listed(columns["file"], keys, _known_parts(path, columns["part"]), captions if any(captions) else [])


def _known_parts(path: Path, parts: list[str]) -> list[str]:
    odd = [part for part in parts if part and part.lower() not in ALIASES]
    if odd:
        raise DataError(f"{shown(path)}: the part '{shown(odd[0])}' is none of train, validation, test")
    return [ALIASES[part.lower()] if part else "" for part in parts]


def _csv_of(folder: Path, given: str | None) -> Path | None:
    if given is None:
        return next((folder / name for name in _LISTS if (folder / name).is_file()), None)
    for path in (folder / given, Path(given).expanduser()):
        if path.is_file():
            return path
    raise DataError(f"csv={given} is neither in {shown(folder)} nor a path of its own")


def _is_part(path: Path) -> bool:
    return path.is_dir() and path.name.lower() in ALIASES


def _prepared(folder: Path, rule: SplitRule, notes: list[str]) -> tuple[dict[str, tuple[Table, Rows]], list[str], bool]:
    """Parts of a set of the project's own format."""
    table = open_set(folder)
    captions = bool(len(table)) and any(table.caption(row) for row in range(min(len(table), 100)))
    labels = table.column("label") if table.has("label") else np.full(len(table), -1)
    if not table.has("label") and not captions:
        raise DataError(f"{shown(folder)} has no column label and no captions: there is nothing to measure on")
    several = table.pictures["labels"].combine_chunks().flatten().to_numpy() if table.has("labels") else labels
    count = int(max(labels.max(initial=-1), several.max(initial=-1))) + 1
    column = next((name for name in ("part", "split") if table.has(name)), None)
    if column is not None:
        parts = _known_parts(folder, [str(part) for part in table.column(column)])
    else:
        kept = np.flatnonzero(labels >= 0) if count and several is labels else np.arange(len(table))
        drawn = drawn_parts([table.identity(int(row)) for row in kept], [str(labels[row]) for row in kept], rule)
        parts = [""] * len(table)
        for row, part in zip(kept, drawn, strict=True):
            parts[row] = part
        notes.append("parts are drawn within every class")
    rows: dict[str, tuple[Table, Rows]] = {}
    for part in ("train", "validation", "test"):
        found = np.flatnonzero([one == part for one in parts])
        if len(found):
            rows[part] = (table, found)
    if "test" not in rows:
        raise DataError(f"{shown(folder)}: no picture is in the part test")
    return rows, _names_in(folder, count), captions


def _names_in(folder: Path, count: int) -> list[str]:
    about: Any = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    known: Any = about.get("evaluation", {}) if isinstance(about, Mapping) else {}
    names = known.get("class_names", []) if isinstance(known, Mapping) else []
    return [str(name) for name in names] if len(names) == count else [str(number) for number in range(count)]
