"""Sets of the Hugging Face `datasets` library, saved on disk, as Parquet files, or by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lgrep.data.containers.columns import Choice, choose_columns, class_names
from lgrep.data.notices import notice, shown
from lgrep.data.sources.parquet import ParquetSource
from lgrep.data.table import Table
from lgrep.errors import DataError
from lgrep.evaluation.contract import Metric
from lgrep.evaluation.datasets.listed import class_order, readable
from lgrep.evaluation.datasets.missing import MissingDataset
from lgrep.evaluation.datasets.names import templates_of
from lgrep.evaluation.datasets.splitting import PartName, SplitRule, drawn_parts
from lgrep.evaluation.datasets.table_set import Rows, TableSet

_SPLITS: dict[PartName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}


class HuggingFaceSet(TableSet):
    """A labelled set of the `datasets` library.

    Args:
        source: a folder that `save_to_disk` wrote, Parquet files (folder or pattern), or a name on the hub.
        name: of the set.
        config: configuration of a named set.
        splits: part -> split; null: by their usual names; a lone `validation` tests, and a lone split is divided.
        image_column, label_column: null: by type and name.
        download: let the library download a named set.
        templates: prompts.
        metric: what counts.
        statistics: see `TableSet`.

    Raises:
        MissingDataset: it is not there, or the library is not installed.
        DataError: it has no pictures or labels.
    """

    def __init__(
        self,
        source: str,
        name: str = "huggingface",
        config: str | None = None,
        splits: dict[PartName, str] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        download: bool = False,
        templates: list[str] | str = "generic",
        metric: Metric = "top1",
        statistics: Literal["imagenet", "sample"] = "sample",
    ) -> None:
        choice = Choice(image_column or "auto", None, label_column or "auto")
        local = Path(source).expanduser().exists() or any(mark in source for mark in "*{")
        if local:
            tables, names = _on_disk(source, splits, choice)
        else:
            tables, names = _named(source, config, splits, choice, download)
        notes: list[str] = []
        rows = _parts(tables, notes)
        prompts, whose = templates_of(templates)
        for line in notes:
            notice(f"{name}: {line}")
        names = [readable(text) for text in names]
        super().__init__(name, rows, names, prompts, metric, (*notes, whose), None, statistics)


def _parts(tables: dict[PartName, Table], notes: list[str]) -> dict[str, tuple[Table, Rows]]:
    rows: dict[str, tuple[Table, Rows]] = {part: (table, np.arange(len(table))) for part, table in tables.items()}
    if "test" not in rows and "validation" in rows:
        rows["test"] = rows.pop("validation")
        notes.append("there is no split test: validation tests")
    if "test" not in rows:
        table = tables["train"]
        keys = [str(label) for label in table.column("label")]
        rule = SplitRule(shares={"validation": 0.2, "test": 0.2})
        drawn = np.asarray(drawn_parts([f"{row:012d}" for row in range(len(table))], keys, rule))
        rows = {str(part): (table, np.flatnonzero(drawn == part)) for part in _SPLITS}
        notes.append("parts are drawn within every class")
    return rows


def _on_disk(
    source: str, splits: dict[PartName, str] | None, choice: Choice
) -> tuple[dict[PartName, Table], list[str]]:
    tables: dict[PartName, tuple[Table, list[str]]] = {}
    for part, candidates in _SPLITS.items():
        for split in (splits[part],) if splits and part in splits else () if splits else candidates:
            given = ParquetSource(source, split, choice.picture, None, choice.label, probe_share=0)
            try:
                table, found = given.training(), given._open().class_names
            except DataError:
                if splits:
                    raise
                continue
            if tables and any(other.content_hash == table.content_hash for other, _ in tables.values()):
                continue  # files that tell no split are every split
            tables[part] = table, list(found)
            break
    if not tables:
        ParquetSource(source, "train", choice.picture, None, choice.label, probe_share=0).training()
    for table, _ in tables.values():
        if not table.has("label"):
            raise DataError(f"source={shown(source)} has no labels. Type label_column=NAME")
    return _same_numbers(tables)


def _named(
    source: str, config: str | None, splits: dict[PartName, str] | None, choice: Choice, download: bool
) -> tuple[dict[PartName, Table], list[str]]:
    try:
        import datasets  # type: ignore[import-untyped, import-not-found]
    except ImportError as error:
        raise MissingDataset(f"{source} is read by the package datasets: type pip install datasets") from error
    try:
        with nullcontext() if download else _offline():
            found = datasets.load_dataset(source, config)
    except Exception as error:  # the library and its network layers raise almost anything
        reason = " ".join(str(error).split())[:150]
        more = "" if download else ", or type download=true where there is a network"
        raise MissingDataset(
            f"{source} cannot be opened ({shown(reason)}). Give a folder that save_to_disk wrote{more}"
        ) from error
    wanted = splits or {part: next((s for s in some if s in found), "") for part, some in _SPLITS.items()}
    tables = {}
    for part, split in wanted.items():
        if split:
            if split not in found:
                raise DataError(f"{source} has no split {split}; it has {', '.join(found)}")
            tables[part] = _table(source, found[split], choice)
    if not tables:
        raise DataError(f"{source} has the splits {', '.join(found)}. Type splits={{test: NAME}}")
    return _same_numbers(tables)


@contextmanager
def _offline() -> Iterator[None]:
    """The library looks into its cache only, without a word to the network."""
    import datasets
    from huggingface_hub import constants

    modules: list[Any] = [datasets.config, constants]
    switches = [(module, module.HF_HUB_OFFLINE) for module in modules]
    try:
        for module, _ in switches:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, before in switches:
            module.HF_HUB_OFFLINE = before


def _same_numbers(tables: dict[PartName, tuple[Table, list[str]]]) -> tuple[dict[PartName, Table], list[str]]:
    """The tables with the same number for a class in all of them: files number the classes that they have."""
    lists = [names for _, names in tables.values()]
    if all(names == lists[0] for names in lists):
        return {part: table for part, (table, _) in tables.items()}, lists[0]
    union = sorted({name for names in lists for name in names}, key=class_order)
    made: dict[PartName, Table] = {}
    for part, (table, names) in tables.items():
        number = np.asarray([*(union.index(name) for name in names), -1])
        column = pa.array(number[table.column("label")].astype(np.int32))
        pictures = table.pictures.set_column(table.pictures.column_names.index("label"), "label", column)
        made[part] = Table(pictures, table.captions, table.store, table.name, table.content_hash)
    return made, union


def _table(source: str, data: Any, choice: Choice) -> tuple[Table, list[str]]:
    import datasets

    schema = data.features.arrow_schema
    columns = choose_columns(schema, source, choice)
    if columns.label is None:
        raise DataError(f"{source} has no labels. Type label_column=NAME")
    data = data.cast_column(columns.picture, datasets.Image(decode=False))
    labels = data[columns.label][:]
    names = list(class_names(schema, columns.label)) or sorted({str(label) for label in labels})
    number = {text: place for place, text in enumerate(names)}
    label = [value if isinstance(value, int) else number[str(value)] for value in labels]
    ids = pa.array([f"{row:08d}" for row in range(len(label))])
    pictures = {"id": ids, "group": pa.array(range(len(label)), pa.int32()), "label": pa.array(label, pa.int32())}
    digest = hashlib.sha256(f"{data._fingerprint}{label}".encode()).hexdigest()[:16]
    captions = pa.table({"id": ids, "text": [""] * len(label)})
    return Table(pa.table(pictures), captions, HubStore(data, columns.picture), shown(source), digest), names


class HubStore:
    """Encoded pictures of a `datasets.Dataset`.

    Args:
        data: with pictures that are not decoded.
        column: of them.
        rows: rows that the store's own stand for; None: all.
    """

    def __init__(self, data: Any, column: str, rows: Rows | None = None) -> None:
        self.data, self.column = data, column
        self.rows = np.arange(len(data)) if rows is None else rows

    def read(self, row: int) -> bytes:
        """Encoded bytes of picture `row`."""
        value = self.data[int(self.rows[row])][self.column]
        return bytes(value["bytes"]) if value["bytes"] is not None else Path(value["path"]).read_bytes()

    def locate(self, row: int) -> str:
        """Where the picture is, for messages."""
        return f"row {int(self.rows[row])}"

    def subset(self, rows: Rows) -> HubStore:
        """The same store with picture `rows[i]` as row `i`."""
        return HubStore(self.data, self.column, self.rows[rows])
