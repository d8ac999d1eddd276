"""The small everyday sets that torchvision downloads: CIFAR-10, CIFAR-100, STL-10."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import PositiveInt

from lgrep.data.notices import notice, shown
from lgrep.data.probe import ProbeTables
from lgrep.data.progress import Progress
from lgrep.data.shards import write_set
from lgrep.data.table import Table, open_set
from lgrep.errors import ConfigError, DataError

# data set -> class of torchvision.datasets, its splits (the last one is the test split), and their arguments
SETS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "cifar10": ("CIFAR10", {"train": {"train": True}, "test": {"train": False}}),
    "cifar100": ("CIFAR100", {"train": {"train": True}, "test": {"train": False}}),
    "stl10": ("STL10", {name: {"split": name} for name in ("unlabeled", "train", "train+unlabeled", "test")}),
}
SCHEMA = pa.schema([pa.field("id", pa.string()), pa.field("group", pa.int64()), pa.field("label", pa.int64())])
CAPTIONS = pa.schema([pa.field("id", pa.string()), pa.field("text", pa.string())])


class TorchvisionSource:
    """Trains on a split; the online probes classify pictures of the test split.

    Pictures are written once, without loss, as a set of this project beside the downloaded files, which torchvision
    reads after checking their digest.

    Args:
        dataset: `cifar10`, `cifar100` or `stl10`.
        root: folder that torchvision downloads to.
        download: fetch the set where it is missing.
        split: to train on.
        probe_per_class: pictures of each class that the probes look up, from the training split (STL-10: the labelled
            one), and that they classify, from the test split; null: no probes.
    """

    def __init__(
        self,
        dataset: Literal["cifar10", "cifar100", "stl10"],
        root: str,
        download: bool = False,
        split: str = "train",
        probe_per_class: PositiveInt | None = 100,
    ) -> None:
        splits = SETS[dataset][1]
        if split not in splits or split == "test":
            allowed = ", ".join(name for name in splits if name != "test")
            raise ConfigError(f"data.split={split}: {dataset} has {allowed}. Type data.split=train")
        self.dataset, self.root, self.download, self.split = dataset, Path(root), download, split
        self.probe_per_class = probe_per_class

    def training(self) -> Table:
        return self._prepared(self.split)

    def probe(self) -> ProbeTables | None:
        if self.probe_per_class is None:
            return None
        gallery, queries = self._prepared("train"), self._prepared("test")
        about = json.loads((self._folder("train") / "set.json").read_text(encoding="utf-8"))
        names = [str(name) for name in about["classes"]]
        return ProbeTables(_some(gallery, self.probe_per_class), _some(queries, self.probe_per_class), names)

    def _folder(self, split: str) -> Path:
        return self.root / f"lgrep-{self.dataset}-{split}"

    def _prepared(self, split: str) -> Table:
        folder = self._folder(split)
        if not (folder / "set.json").is_file():
            data = self._opened(split)
            notice(f"preparing {self.dataset} ({split}) in {shown(folder)}, once")
            partial = folder.with_name(f".{folder.name}.{os.getpid()}")
            done = [0]
            with Progress(len(data), 0, lambda: done[0], "pictures"):
                extra = {"classes": list(data.classes), "source": f"torchvision.datasets {SETS[self.dataset][0]}"}
                captions = pa.table({"id": _ids(len(data)), "text": [""] * len(data)}, schema=CAPTIONS)
                write_set(partial, f"{self.dataset}_{split}", _pictures(data, done), captions, SCHEMA, CAPTIONS,
                          extra=extra)  # fmt: skip
            try:
                partial.rename(folder)
            except OSError:  # another process was faster
                shutil.rmtree(partial)
        return open_set(folder)

    def _opened(self, split: str) -> Any:
        from torchvision import datasets

        name, splits = SETS[self.dataset]
        try:
            return getattr(datasets, name)(str(self.root), download=self.download, **splits[split])
        except (RuntimeError, OSError) as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"data.root={shown(self.root)}: {self.dataset} cannot be read ({line}). Point data.root=DIR to "
                "torchvision's folder of it, or type data.download=true"
            ) from error


def _ids(count: int) -> list[str]:
    return [f"{row:06d}.png" for row in range(count)]


def _pictures(data: Any, done: list[int]) -> Iterator[tuple[dict[str, Any], bytes]]:
    labels = data.targets if hasattr(data, "targets") else data.labels
    for row, name in enumerate(_ids(len(data))):
        array = np.asarray(data.data[row])
        picture = Image.fromarray(array if array.shape[-1] == 3 else np.transpose(array, (1, 2, 0)))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        done[0] += 1
        yield {"id": name, "group": row, "label": int(labels[row])}, buffer.getvalue()


def _some(table: Table, per_class: int) -> Table:
    """The first pictures of every class."""
    labels = table.column("label")
    rows = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels) if label >= 0]
    return table.select(np.sort(np.concatenate(rows)))
