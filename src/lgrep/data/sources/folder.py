"""Any folder of pictures, with or without labels and captions, read in place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lgrep.data.probe import ProbeTables
from lgrep.data.stores import FolderStore
from lgrep.data.table import Table
from lgrep.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class FolderSource:
    """Pictures below a folder, recursively.

    Args:
        root: the folder.
        captions: `sidecar` reads `name.txt`, or the field `caption` of `name.json`, beside each picture;
            `none` leaves captions empty.
        group: what makes pictures siblings: `picture` (nothing), `folder` (one folder per caption) or
            `caption` (equal caption texts).
        labels: `folder` takes the first folder below the root as the class; `none`.
        probe_share: share of each class kept out of training for the online probes (with labels).
    """

    def __init__(
        self,
        root: str,
        captions: Literal["none", "sidecar"] = "none",
        group: Literal["picture", "folder", "caption"] = "picture",
        labels: Literal["none", "folder"] = "none",
        probe_share: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        self.root = Path(root)
        self.captions = captions
        self.group = group
        self.labels = labels
        self.probe_share = probe_share
        self._table: Table | None = None

    def training(self) -> Table:
        table = self._open()
        return table if self.labels == "none" else table.select(np.flatnonzero(~self._held_out(table)))

    def probe(self) -> ProbeTables | None:
        if self.labels == "none" or self.probe_share == 0:
            return None
        table = self._open()
        held_out = self._held_out(table)
        if held_out.all() or not held_out.any():
            return None
        return ProbeTables(
            gallery=table.select(np.flatnonzero(~held_out)),
            queries=table.select(np.flatnonzero(held_out)),
            class_names=self._class_names([str(file) for file in table.column("id")]),
        )

    def _open(self) -> Table:
        if self._table is None:
            self._table = self._build(self._files())
        return self._table

    def _files(self) -> list[str]:
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root} is no folder. Point data.root=... to a folder of pictures")
        files = sorted(_pictures_below(self.root))
        if not files:
            raise DataError(
                f"data.root={self.root} holds no picture ({', '.join(sorted(SUFFIXES))}). Point data.root=... elsewhere"
            )
        return files

    def _build(self, files: list[str]) -> Table:
        texts = [self._caption(file) for file in files]
        keys = {
            "picture": files,
            "folder": [os.path.dirname(file) for file in files],
            "caption": texts,
        }[self.group]
        order = sorted(range(len(files)), key=lambda i: (keys[i], files[i]))
        names, groups = np.unique([keys[i] for i in order], return_inverse=True)
        first = np.unique(groups, return_index=True)[1]
        names_of_classes = self._class_names(files)
        columns = {
            "id": pa.array([files[i] for i in order]),
            "group": pa.array(groups.astype(np.int32)),
            "label": pa.array([self._label(files[i], names_of_classes) for i in order], pa.int32()),
        }
        captions = pa.table({"id": pa.array([str(name) for name in names]), "text": [texts[order[i]] for i in first]})
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file}\0{(self.root / file).stat().st_size}\0".encode())
        digest.update("\0".join(texts).encode())
        store = FolderStore(self.root, [files[i] for i in order])
        return Table(pa.table(columns), captions, store, self.root.name, digest.hexdigest()[:16])

    def _caption(self, file: str) -> str:
        if self.captions == "none":
            return ""
        stem = self.root / os.path.splitext(file)[0]
        try:
            if stem.with_name(stem.name + ".txt").is_file():
                return stem.with_name(stem.name + ".txt").read_text(encoding="utf-8").strip()
            return str(json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))["caption"]).strip()
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"no caption for {self.root / file} ({type(error).__name__}: {error}); expected {stem.name}.txt or "
                f"{stem.name}.json with a field 'caption'. Type data.captions=none to train without captions"
            ) from error

    def _class_names(self, files: list[str]) -> list[str]:
        return [] if self.labels == "none" else sorted({file.split("/")[0] for file in files if "/" in file})

    def _label(self, file: str, names: list[str]) -> int:
        return names.index(file.split("/")[0]) if "/" in file and names else -1

    def _held_out(self, table: Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """A picture's fate depends on its name alone, so that adding pictures moves no other one."""
        labelled = table.column("label") >= 0
        drawn = [int(hashlib.sha256(str(name).encode()).hexdigest()[:8], 16) / 2**32 for name in table.column("id")]
        return labelled & (np.asarray(drawn) < self.probe_share)


def _pictures_below(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()
