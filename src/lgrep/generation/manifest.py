"""From finished shards to a picture set that `lgrep.data.table.open_set` reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lgrep.data.shards import FILES, write_tables
from lgrep.data.table import FORMAT
from lgrep.errors import DataError
from lgrep.generation.broken import BROKEN, OK, UNSAFE, near_duplicates
from lgrep.generation.plan import Plan, Shard, planned_captions, work_folder
from lgrep.generation.scores import ClipScores
from lgrep.generation.storage import Finished, Storage, picture_name


@dataclass(frozen=True)
class Selection:
    """Which pictures of the finished shards belong to the set; may be changed at any time.

    Attributes:
        images_per_caption: how many of each caption, counted from index 0.
        near_duplicates: a picture that differs in at most so many bits of its `difference_hash` from an earlier one of
            its caption is left out; None: all stay.
        min_clip_score: pictures with a lower cosine similarity to their caption are left out; None: all stay.
        clip: identity of the CLIP that scores them.
    """

    images_per_caption: int
    near_duplicates: int | None = None
    min_clip_score: float | None = None
    clip: str | None = None


class Manifest:
    """Puts the set together; any process may, as often as it likes, with the same result.

    Args:
        storage: all shards finished.
        plan: of the set.
        selection: which pictures.
        scores: CLIP scores of all shards, where they are asked for.
    """

    def __init__(self, storage: Storage, plan: Plan, selection: Selection, scores: ClipScores | None = None) -> None:
        self.storage, self.plan, self.selection, self.scores = storage, plan, selection, scores
        self.shards = plan.shards(selection.images_per_caption)

    def write(self) -> dict[str, Any]:
        """Write `pictures.arrow`, `captions.arrow` and, last, `set.json`.

        Returns:
            The content of `set.json`.

        Raises:
            DataError: no picture is left.
        """
        records = self._records()
        wanted = {**asdict(self.selection), "shards": digest_of(records)}
        before = self._there(wanted)
        if before is not None:
            return before
        rows, counts = self._rows()
        if not len(rows):
            raise DataError(
                f"no picture of {self.plan.name} is left ({counts}). Relax near_duplicates or min_clip_score"
            )
        captions, rows = self._captions(rows)
        return self._put(rows, captions, {"selection": wanted, "left_out": counts})

    def _put(self, rows: pa.Table, captions: pa.Table, facts: dict[str, Any]) -> dict[str, Any]:
        """Put the tables and the description in place; the content of `set.json`."""
        folder, work = self.storage.folder, work_folder(self.storage.folder) / "tables"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_tables(work, rows.drop_columns(["digest"]), captions)
        content = hashlib.sha256(b"".join(rows["digest"].to_pylist()))
        for name in FILES:
            content.update((work / name).read_bytes())
        tables = {name: hashlib.sha256((work / name).read_bytes()).hexdigest() for name in FILES}
        about = {
            "format": FORMAT,
            "name": self.plan.name,
            "pictures": len(rows),
            "captions": len(captions),
            "shards": [f"{shard.name}.tar" for shard in self.shards],
            "content_hash": content.hexdigest()[:16],
            "generation": {"identity": self.plan.identity, **facts, "tables": tables, **self._provenance()},
        }
        (work / "set.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "set.json").unlink(missing_ok=True)  # a set is valid only with its last file
        for name in (*FILES, "set.json"):
            _moved(work / name, folder / name)
        shutil.rmtree(work, ignore_errors=True)
        return about

    def _records(self) -> list[Finished]:
        found = [self.storage.finished(shard) for shard in self.shards]
        missing = [shard.name for shard, record in zip(self.shards, found, strict=True) if record is None]
        if missing:
            raise DataError(f"{self.storage.folder}: {len(missing):,} shards are missing, {missing[0]} for one")
        return [record for record in found if record is not None]

    def _there(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """The content of `set.json` if it is that of this very selection and its tables are there."""
        try:
            about: dict[str, Any] = json.loads((self.storage.folder / "set.json").read_text(encoding="utf-8"))
            same = about["generation"]["selection"] == wanted
            tables = about["generation"]["tables"]
            whole = all(
                hashlib.sha256((self.storage.folder / name).read_bytes()).hexdigest() == tables[name] for name in FILES
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return about if same and whole else None

    def _rows(self) -> tuple[pa.Table, dict[str, int]]:
        """Kept pictures ordered by caption and index, and how many were left out for which reason."""
        numbered = [self._of_shard(number, shard) for number, shard in enumerate(self.shards)]
        table = pa.concat_tables(numbered).combine_chunks()
        order = np.lexsort([table["index"].to_numpy(), table["caption"].to_numpy()])
        table = table.take(pa.array(order)).combine_chunks()
        status = np.array(table["status"].to_pylist(), object)
        reasons = {name: status == name for name in (*BROKEN, UNSAFE)}
        kept = status == OK
        if self.selection.min_clip_score is not None:
            reasons["clip_score"] = kept & (table["clip_score"].to_numpy() < self.selection.min_clip_score)
            kept &= ~reasons["clip_score"]
        if self.selection.near_duplicates is not None:
            there = np.flatnonzero(kept)
            group, looks = table["caption"].to_numpy()[there], table["looks"].to_numpy()[there]
            doubled = np.zeros(len(kept), bool)
            doubled[there] = near_duplicates(group, looks, self.selection.near_duplicates)
            reasons["near_duplicate"] = doubled
            kept &= ~doubled
        counts = {name: int(mask.sum()) for name, mask in reasons.items() if mask.any()}
        return table.filter(pa.array(kept)).combine_chunks(), counts

    def _of_shard(self, number: int, shard: Shard) -> pa.Table:
        rows = self.storage.rows(shard)
        rows = rows.append_column("shard", pa.array(np.full(len(rows), number, np.int32)))
        if self.scores is not None:
            found = self.scores.read(self.storage, shard)
            assert found is not None, "scored before"
            rows = rows.append_column("clip_score", pa.array(found, pa.float32()))
        return rows

    def _captions(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Captions that have pictures, and the rows with columns as a picture set has them."""
        numbers: NDArray[np.int32] = rows["caption"].to_numpy()
        used, group = np.unique(numbers, return_inverse=True)
        captions = planned_captions(self.storage.folder).take(pa.array(used)).combine_chunks()
        index = rows["index"].to_numpy()
        count = len(rows)
        columns: dict[str, Any] = {
            "id": pa.array([picture_name(int(c), int(i)) for c, i in zip(numbers, index, strict=True)]),
            "group": pa.array(group.astype(np.int32)),
        }
        if "label" in captions.column_names and pa.types.is_integer(captions.schema.field("label").type):
            columns["label"] = pa.array(captions["label"].to_numpy()[group].astype(np.int32))
        columns |= {
            "index": rows["index"],
            "attempt": rows["attempt"],
            "seed": pa.array(np.full(count, self.plan.seed, np.int64)),
            "guidance_scale": pa.array(np.full(count, self.plan.settings["guidance_scale"], np.float32)),
        }
        columns |= {"truncated": rows["truncated"]}
        columns |= {"flagged": rows["flagged"]} if self.plan.settings.get("safety") != "off" else {}
        columns |= {"clip_score": rows["clip_score"]} if self.scores is not None else {}
        columns |= {name: rows[name] for name in ("shard", "offset", "size", "digest")}
        return captions, pa.table(columns)

    def _provenance(self) -> dict[str, Any]:
        facts = asdict(self.plan)
        return {
            name: facts[name]
            for name in ("captions_hash", "seed", "batch_size", "shard_captions", "painter", "settings")
        }


def digest_of(records: Sequence[Finished]) -> str:
    """16 hexadecimal digits over the contents of shards."""
    return hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest()[:16]


def _moved(source: Path, target: Path) -> None:
    with source.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(source, target)
