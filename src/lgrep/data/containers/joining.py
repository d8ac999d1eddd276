"""What the files of a set hold, as one table of pictures and one of captions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lgrep.data.arrow_files import as_numpy
from lgrep.data.containers.samples import Scan
from lgrep.data.notices import shown

_EXAMPLES = 1000  # of pictures left out that are named


def joined(
    files: Sequence[Path], scans: Sequence[Scan], group: str, class_names: Sequence[str]
) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Picture table, caption table and `index.json` without what identifies them."""
    parent = Path(os.path.commonpath([path.absolute().parent for path in files]))
    names = [path.absolute().relative_to(parent).as_posix() for path in files]
    left_out = [(f"{file}/{item}", why) for file, scan in zip(names, scans, strict=True) for item, why in scan.left_out]
    firsts = np.cumsum([0, *(scan.parts for scan in scans)])
    numbered = [_numbered(scan.rows, first, name) for first, name, scan in zip(firsts, names, scans, strict=False)]
    rows = pa.concat_tables(numbered, promote_options="default")
    captioned = rows["text"].null_count < len(rows)
    if captioned and rows["text"].null_count:
        without = rows.filter(pc.is_null(rows["text"])).select(["id", "why"])
        left_out += [(row["id"], row["why"]) for row in without.slice(0, _EXAMPLES).to_pylist()]
    total_without = rows["text"].null_count if captioned else 0
    rows = rows.filter(pc.is_valid(rows["text"])) if captioned else rows
    lost = _lost(scans)
    unread = sum(len(scan.left_out) for scan in scans) + total_without + lost
    labels, names_of_classes = _labels(rows["label"], class_names)
    text = pc.fill_null(rows["text"], "").cast(pa.large_string())
    texts = rows["texts"] if "texts" in rows.column_names else None
    rows = rows.drop_columns([name for name in ("text", "texts", "why", "label") if name in rows.column_names])
    rows = rows if labels is None else rows.append_column("label", labels)
    pictures, captions = _grouped(rows, text, texts, group if captioned else "picture")
    damage = [f"{file}: {scan.damage}" for file, scan in zip(names, scans, strict=True) if scan.damage]
    return (
        pictures,
        captions,
        {
            "parts": [scan.parts for scan in scans],
            "shards": [None] * int(firsts[-1]),
            "pictures": len(pictures),
            "captions": len(captions),
            "class_names": names_of_classes,
            "found": len(rows) + unread,
            "left_out": unread,
            "examples": [(utf8_name(item), why) for item, why in left_out[:_EXAMPLES]],
            "damage": damage,
            "extensions": sorted({extension for scan in scans for extension in scan.extensions})[:_EXAMPLES],
        },
    )


def _numbered(rows: pa.Table, first: int, file: str) -> pa.Table:
    """Rows of one file with ids that name it, and with the numbers of its parts."""
    inner = as_numpy(rows["shard"]) if "shard" in rows.column_names else np.zeros(len(rows), np.int32)
    rows = rows.drop_columns(["shard"]) if "shard" in rows.column_names else rows
    rows = rows.append_column("shard", pa.array((inner + first).astype(np.int32)))
    return rows.set_column(0, "id", pc.binary_join_element_wise(utf8_name(file), rows["name"], "/"))


def _grouped(
    rows: pa.Table, text: pa.ChunkedArray, texts: pa.ChunkedArray | None, group: str
) -> tuple[pa.Table, pa.Table]:
    """Pictures in the order of their captions, and the captions."""
    if group == "picture":
        captions = pa.table({"id": rows["id"], "text": text, **({"texts": texts} if texts is not None else {})})
        return rows.append_column("group", pa.array(np.arange(len(rows), dtype=np.int32))), captions
    encoded = text.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    rows = rows.take(pa.array(order)).append_column("group", pa.array(codes[order].astype(np.int32)))
    first = np.searchsorted(codes[order], np.arange(len(encoded.dictionary)))
    captions = {"id": rows["id"].take(pa.array(first)), "text": encoded.dictionary}
    if texts is not None:
        captions["texts"] = texts.take(pa.array(order[first]))
    return rows, pa.table(captions)


def _labels(found: pa.ChunkedArray, names: Sequence[str]) -> tuple[pa.Array | None, list[str]]:
    """Classes int32 (-1: none) and their names: whole numbers stand for themselves, other texts are numbered by name."""
    if found.null_count == len(found):
        return None, []
    texts = sorted(text for text in pc.unique(found).to_pylist() if text is not None)
    numbers = {text: int(text) for text in texts if text.isascii() and text.isdigit() and len(text) < 7}
    if len(numbers) < len(texts):
        numbers = {text: number for number, text in enumerate(texts)}
        names = [shown(text) for text in texts]
    elif len(names) <= max(numbers.values()):
        names = [str(number) for number in range(max(numbers.values()) + 1)]
    places = pc.index_in(found, pa.array(texts)).combine_chunks()
    of_text = pa.array([numbers[text] for text in texts], pa.int32())
    return pc.fill_null(of_text.take(places), -1), list(names)


def _lost(scans: Sequence[Scan]) -> int:
    """Samples behind damage, as many as other files hold where a file does not tell."""
    whole = [len(scan.rows) for scan in scans if not scan.damage]
    usual = sum(whole) / len(whole) if whole else 0.0
    return sum(
        round(max(1.0, usual - len(scan.rows)) if scan.lost is None else scan.lost) for scan in scans if scan.damage
    )


def utf8_name(name: str) -> str:
    """The name with bytes that are no UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
