"""Any folder of pictures, with or without labels and captions, read in place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lgrep.data.notices import examples, notice, shown
from lgrep.data.probe import ProbeTables, split_for_probes
from lgrep.data.sources.listing import SUFFIXES, Listing, check_folder, list_pictures
from lgrep.data.sources.sidecars import NoCaption, read_caption
from lgrep.data.stores import FolderStore
from lgrep.data.table import Table
from lgrep.errors import DataError


class FolderSource:
    """Pictures below a folder, recursively; links are followed.

    Files that cannot be used (empty, broken link, with `captions=sidecar` without a caption) are left out, counted
    and named.

    Args:
        root: the folder.
        captions: `sidecar` reads `name.txt`, or the field `caption` of `name.json`, beside each picture;
            `none` leaves captions empty.
        group: what makes pictures siblings: `picture` (nothing), `folder` (one folder per caption) or
            `caption` (equal caption texts).
        labels: `folder` takes the first folder below the root as the class; `none`.
        probe_share: share of each class kept out of training for the online probes (with labels).
        max_left_out: largest share of pictures that may be left out.
    """

    def __init__(
        self,
        root: str,
        captions: Literal["none", "sidecar"] = "none",
        group: Literal["picture", "folder", "caption"] = "picture",
        labels: Literal["none", "folder"] = "none",
        probe_share: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        max_left_out: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        self.root = Path(root).expanduser()
        self.captions = captions
        self.group = group
        self.labels = labels
        self.probe_share = probe_share
        self.max_left_out = max_left_out
        self.left_out: list[tuple[str, str]] = []  # (picture, reason)
        self._given_root = root
        self._table: Table | None = None

    def training(self) -> Table:
        table = self._open()
        return table if self.labels == "none" else table.select(np.flatnonzero(~self._held_out(table)))

    def probe(self) -> ProbeTables | None:
        if self.labels == "none" or self.probe_share == 0:
            return None
        table = self._open()
        held_out = self._held_out(table)
        names = self._class_names([str(file) for file in table.column("id")])
        return split_for_probes(table, held_out, ~held_out, names, self.probe_share)

    def _open(self) -> Table:
        if self._table is None:
            check_folder(self._given_root, "data.root", "of pictures")
            listing = list_pictures(self.root)
            texts = self._read_captions(listing)
            self.left_out = listing.left_out
            self._check(listing)
            self._table = self._build(listing.sizes, texts)
        return self._table

    def _read_captions(self, listing: Listing) -> dict[str, str]:
        """Caption of each picture; pictures without one leave the listing."""
        if self.captions == "none":
            return dict.fromkeys(listing.sizes, "")
        texts = {}
        for file in list(listing.sizes):
            try:
                texts[file] = read_caption(self.root / file)
            except NoCaption as error:
                listing.left_out.append((file, str(error)))
                del listing.sizes[file]
        return texts

    def _check(self, listing: Listing) -> None:
        """Say what is left out, or refuse."""
        place, lost = f"data.root={shown(self.root)}", len(listing.left_out)
        total = len(listing.sizes) + lost
        if not total:
            others = ", ".join(f"{count:,} {suffix}" for suffix, count in listing.others.most_common(3))
            raise DataError(
                f"{place} holds no picture ({', '.join(sorted(SUFFIXES))})"
                f"{f'; it holds {others}' * bool(others)}. Point data.root=... elsewhere"
            )
        named = examples(listing.left_out)
        without = ", or data.captions=none to train without captions" * (self.captions == "sidecar")
        if not listing.sizes:
            raise DataError(
                f"none of the {total:,} pictures in {place} can be used: {named}. Point data.root=... elsewhere{without}"
            )
        if lost > self.max_left_out * total:
            raise DataError(
                f"{lost:,} of {total:,} pictures in {place} cannot be used, more than data.max_left_out="
                f"{self.max_left_out}: {named}. Mend them, or type data.max_left_out=1 to leave them out{without}"
            )
        if lost:
            notice(f"{lost:,} of {total:,} pictures in {place} are left out: {named}")
        if listing.doubles:
            linked = ", ".join(f"{shown(name)} is {shown(first)}" for name, first in listing.doubles[:3])
            notice(
                f"{len(listing.doubles):,} of {len(listing.sizes):,} pictures in {place} are a file that another name "
                f"has too; each name is kept: {linked}"
            )
        if self.labels == "folder" and not any("/" in file for file in listing.sizes):
            raise DataError(
                f"data.labels=folder, but {place} has no sub-folders, which would be the classes. Type data.labels=none"
            )

    def _build(self, sizes: dict[str, int], texts: dict[str, str]) -> Table:
        files = list(sizes)
        keys = {
            "picture": files,
            "folder": [os.path.dirname(file) for file in files],
            "caption": [texts[file] for file in files],
        }[self.group]
        order = sorted(zip(keys, files, strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(key for key, _ in order))}
        first: dict[str, str] = {}
        for key, file in order:
            first.setdefault(key, texts[file])
        numbers_of_classes = {name: number for number, name in enumerate(self._class_names(files))}
        columns = {
            "id": pa.array([shown(file) for _, file in order]),
            "group": pa.array([numbers[key] for key, _ in order], pa.int32()),
            "label": pa.array(
                [numbers_of_classes.get(file.split("/")[0], -1) if "/" in file else -1 for _, file in order], pa.int32()
            ),
        }
        captions = pa.table({"id": [shown(key) for key in numbers], "text": list(first.values())})
        digest = hashlib.sha256()
        for file, size in sizes.items():
            digest.update(os.fsencode(file) + f"\0{size}\0".encode())
        digest.update("\0".join(texts[file] for file in files).encode())
        store = FolderStore(self.root, [file for _, file in order])
        return Table(pa.table(columns), captions, store, shown(self.root.name), digest.hexdigest()[:16])

    def _class_names(self, files: list[str]) -> list[str]:
        return [] if self.labels == "none" else sorted({file.split("/")[0] for file in files if "/" in file})

    def _held_out(self, table: Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """A picture's fate depends on its name alone, so that adding pictures moves no other one."""
        labelled = table.column("label") >= 0
        drawn = [int(hashlib.sha256(str(name).encode()).hexdigest()[:8], 16) / 2**32 for name in table.column("id")]
        return labelled & (np.asarray(drawn) < self.probe_share)
