"""The tables of a prepared set, put together from the rows of its shards."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.data.columns import plain_schema, write_joined
from lgrep.data.filters import keyed_hash
from lgrep.data.notices import examples, notice
from lgrep.data.preparing.shards import DIGEST, Shards, skipped_lines, written_whole
from lgrep.data.table import FORMAT
from lgrep.errors import DataError

_BLOCK = 2**16  # captions filtered at a time


class PreparedTables:
    """Joins the rows of finished shards; what it holds per picture is one hash of its id.

    Captions that lost all pictures are dropped; repeated ids get a number, since ids of a set are unique.

    Args:
        shards: all of them finished.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.files = [shards.rows_file(number) for number in range(len(shards))]
        self.captions = shards.table.captions
        self.counts = np.zeros(shards.table.num_groups, np.int64)
        self.lengths = []
        for file in self.files:
            group = _rows(file)["group"].to_numpy()
            found, count = np.unique(group, return_counts=True)
            self.counts[found] += count
            self.lengths.append(len(group))
        if not sum(self.lengths):
            raise DataError(f"{shards.table.name}: none of its {len(shards.table):,} pictures can be stored")
        self.kept = self.counts > 0
        self._group = (np.cumsum(self.kept) - 1).astype(np.int32)
        self._renamed = self._unique_ids()

    def write(self, name: str, extra: dict[str, Any]) -> dict[str, Any]:
        """Write `pictures.arrow`, `captions.arrow` and, last, `set.json`.

        Args:
            name: of the set.
            extra: plain JSON data kept in `set.json`.

        Returns:
            The content of `set.json`.
        """
        folder, work = self.shards.folder, self.shards.work
        digest = hashlib.sha256()
        for file, length in zip(self.files, self.lengths, strict=True):
            stored = _rows(file)[DIGEST].combine_chunks()
            digest.update(memoryview(stored.buffers()[1])[: 32 * length] if length else b"")
        schema = _rows(self.files[0]).schema.remove_metadata()
        schema = schema.remove(schema.get_field_index(DIGEST))
        captions = plain_schema(self.captions.schema).remove_metadata()
        captions = pa.schema([*(f for f in captions if f.name != "first"), pa.field("first", pa.int64())])
        for target, kind, pieces in (
            ("pictures.arrow", schema, self._of_pictures),
            ("captions.arrow", captions, self._of_captions),
        ):
            with written_whole(folder / target, work) as partial:
                write_joined(partial, kind, pieces, work)
            for column in work.glob("column-*"):
                column.unlink()
            _digest_file(digest, folder / target)
        about = {
            "format": FORMAT,
            "name": name,
            "pictures": sum(self.lengths),
            "captions": int(self.kept.sum()),
            "shards": [self.shards.name(number) for number in range(len(self.shards))],
            "content_hash": digest.hexdigest()[:16],
            **extra,
        }
        with written_whole(folder / "set.json", work) as partial:
            partial.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return about

    def _of_pictures(self, name: str) -> Iterator[pa.Array]:
        start = 0
        for file, length in zip(self.files, self.lengths, strict=True):
            column = _rows(file)[name].combine_chunks()
            array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            if name == "group":
                array = pa.array(self._group[array.to_numpy()])
            elif name == "id" and self._renamed:
                array = self._with_new_ids(array, start)
            yield array
            start += length

    def _of_captions(self, name: str) -> Iterator[pa.Array]:
        if name == "first":
            counts = self.counts[self.kept]
            yield pa.array(np.cumsum(counts) - counts)
            return
        kind = plain_schema(self.captions.schema).field(name).type
        start = 0
        for chunk in self.captions[name].chunks:
            for begin in range(0, len(chunk), _BLOCK):
                piece = chunk[begin : begin + _BLOCK].cast(kind)
                kept = self.kept[start : start + len(piece)]
                yield piece if kept.all() else piece.filter(pa.array(kept))
                start += len(piece)

    def _with_new_ids(self, ids: pa.Array, start: int) -> pa.Array:
        inside = [position for position in self._renamed if start <= position < start + len(ids)]
        if not inside:
            return ids
        texts = ids.to_pylist()
        for position in inside:
            texts[position - start] = self._renamed[position]
        return pa.array(texts, ids.type)

    def _unique_ids(self) -> dict[int, str]:
        """Row -> its new id, for all but the first of equal ids."""
        hashes = np.concatenate([keyed_hash(_rows(file)["id"], 0) for file in self.files])
        ordered = np.sort(hashes)
        doubled = ordered[1:][ordered[1:] == ordered[:-1]]
        if not len(doubled):
            return {}
        suspects = np.flatnonzero(np.isin(hashes, doubled))
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        seen: Counter[str] = Counter()
        repeated: dict[int, tuple[str, int]] = {}
        for number in np.unique(np.searchsorted(starts, suspects, side="right") - 1):
            inside = suspects[(suspects >= starts[number]) & (suspects < starts[number + 1])]
            ids = _rows(self.files[number])["id"].take(pa.array(inside - starts[number])).to_pylist()
            for position, identity in zip(inside, ids, strict=True):
                seen[identity] += 1
                if seen[identity] > 1:
                    repeated[int(position)] = (identity, seen[identity])
        if not repeated:
            return {}
        mark = "~"
        while True:
            renamed = {position: f"{identity}{mark}{number}" for position, (identity, number) in repeated.items()}
            if not np.isin(keyed_hash(pa.array(list(renamed.values())), 0), hashes).any():
                break
            mark += "~"
        listed = [(identity, f"now {renamed[position]}") for position, (identity, _) in repeated.items()]
        notice(f"{self.shards.table.name}: {len(repeated):,} pictures repeat the id of another: {examples(listed)}")
        return renamed

    def skipped(self) -> Iterator[str]:
        """Lines about the pictures that were left out, in their order."""
        for file in self.files:
            yield from skipped_lines(file)


def _rows(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file), "r")).read_all()


def _digest_file(digest: Any, path: Path) -> None:
    with path.open("rb") as handle:
        while block := handle.read(2**22):
            digest.update(block)
