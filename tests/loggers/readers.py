"""What a run left behind, as plain Python: metrics.csv, TensorBoard's events, W&B's offline file."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Points = dict[str, list[tuple[int, float]]]  # name -> (step, value) in the order of writing

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, type (1 whole, 2 first, 3 middle, 4 last)


def csv_points(run: Path) -> Points:
    points: Points = {}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            for name, cell in row.items():
                if name != "step" and cell:
                    points.setdefault(name, []).append((int(row["step"]), float(cell)))
    return points


def tensorboard_events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def tensorboard_points(run: Path) -> Points:
    events = tensorboard_events(run)
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def wandb_folders(run: Path) -> list[Path]:
    """Folders of W&B's runs, oldest first; W&B's process writes the end of its files when it ends."""
    import wandb

    wandb.teardown()
    return sorted((run / "wandb").glob("*run-*-*"))


def wandb_records(folder: Path) -> list[Any]:
    """Records of the one transaction log in a folder (LevelDB's log format with a header of seven bytes)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    return [Record.FromString(content) for content in _contents(file.read_bytes())]


def _contents(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + HEADER.size <= len(data):
        if BLOCK - position % BLOCK < HEADER.size:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):
            yield parts
            parts = b""


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """Logged rows; the parts of a picture (`positives`, `path`) become one entry."""
    rows: list[dict[str, Any]] = []
    for record in wandb_records(folder):
        if record.HasField("history"):
            rows.append({})
            for item in record.history.item:
                name, *inner = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if inner:
                    rows[-1].setdefault(name, {})[inner[0]] = value
                else:
                    rows[-1][name] = value
    return rows


def wandb_points(folder: Path) -> Points:
    points: Points = {}
    for row in wandb_rows(folder):
        for name, value in row.items():
            if not name.startswith("_") and name != "trainer/global_step" and not isinstance(value, dict):
                points.setdefault(name, []).append((row["trainer/global_step"], value))
    return points


def wandb_pictures(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        name: (row["trainer/global_step"], (folder / "files" / value["path"]).read_bytes())
        for row in wandb_rows(folder)
        for name, value in row.items()
        if isinstance(value, dict) and value.get("_type") == "image-file"
    }


def wandb_about(folder: Path) -> Any:
    """The first record about the run: id, name, group, tags, configuration."""
    return next(record.run for record in wandb_records(folder) if record.HasField("run"))


def wandb_exit_code(folder: Path) -> int | None:
    return next((record.exit.exit_code for record in wandb_records(folder) if record.HasField("exit")), None)
