"""What a run cost: pictures, FLOPs, device hours and storage, synthesis of its pictures included."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lgrep.files import write_text

LEDGER = "cost.json"
_NUMBERS = ("accelerator_hours", "cpu_process_hours", "bytes")


@dataclass
class Start:
    """One start of a run.

    Attributes:
        first_step, last_step: optimiser steps before and after it.
        seconds: wall time, from the moment that its devices were in use.
        processes: of which each holds one device.
        device: `cpu`, or the name of the GPU.
    """

    first_step: int
    last_step: int
    seconds: float
    processes: int
    device: str


def read_starts(run_dir: Path) -> list[Start]:
    """The starts of a run so far; none when the file is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        entries = json.loads((run_dir / LEDGER).read_text(encoding="utf-8"))["starts"]
        return [Start(**entry) for entry in entries]
    return []


def write_starts(run_dir: Path, starts: list[Start]) -> None:
    """Replace the file in one step; a full disk keeps the old one."""
    with suppress(OSError):
        write_text(run_dir / LEDGER, json.dumps({"starts": [asdict(start) for start in starts]}, indent=1) + "\n")


def cost_of_run(
    run_dir: Path,
    per_step: Mapping[str, int],
    pictures_per_anchor: tuple[int, int],
    data: Any = None,
    replaced: int = 0,
) -> dict[str, Any]:
    """The `cost` section of a run's summary: everything that was spent on it, over all its starts.

    Args:
        run_dir: folder of the run, with its `cost.json`.
        per_step: `pictures` (views) and `flops` of an optimiser step (those of the backbone, backward included).
        pictures_per_anchor: views, and different pictures among them.
        data: `data` node of the configuration; sets that `generate.py` made are looked up in it.
        replaced: pictures that were broken, each of which took one more decoding.

    Returns:
        Plain values. `steps` counts steps that were computed, those redone after a kill included; `accelerator_hours` is
        wall time x devices on GPUs, `cpu_process_hours` wall time x processes on CPUs; `total` adds the synthesis.
    """
    starts = read_starts(run_dir)
    steps = sum(start.last_step - start.first_step for start in starts)
    views, different = pictures_per_anchor
    seen = steps * per_step["pictures"]
    hours = {"accelerator_hours": 0.0, "cpu_process_hours": 0.0}
    for start in starts:
        kind = "cpu_process_hours" if start.device == "cpu" else "accelerator_hours"
        hours[kind] += start.seconds * start.processes / 3600
    synthesis = [] if data is None else synthesis_of(data)
    stored = _bytes_in(run_dir)
    total = {name: hours.get(name, 0.0) + sum(made[name] for made in synthesis) for name in _NUMBERS[:2]}
    return {
        "starts": len(starts),
        "steps": steps,
        "pictures_seen": seen,
        "pictures_decoded": seen // views * different + replaced,
        "flops": steps * per_step["flops"],
        "wall_seconds": round(sum(start.seconds for start in starts), 3),
        "processes": starts[-1].processes if starts else 0,
        "devices": sorted({start.device for start in starts}),
        **{name: _hours(value) for name, value in hours.items()},
        "bytes": stored,
        "synthesis": synthesis,
        "total": {**{name: _hours(value) for name, value in total.items()},
                  "bytes": stored + sum(made["bytes"] for made in synthesis)},
    }  # fmt: skip


def _bytes_in(folder: Path) -> int:
    """Size of a folder's files, hard links counted once; what disappears meanwhile is not counted."""
    sizes: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                about = os.stat(os.path.join(place, name))
                sizes[about.st_dev, about.st_ino] = about.st_size
    return sum(sizes.values())


def cost_at(path: str | Path) -> dict[str, Any] | None:
    """The cost of the finished run that a run folder, or a checkpoint in one, belongs to; None when there is none."""
    place = Path(path)
    for folder in (place, place.parent, place.parent.parent):
        with suppress(OSError, ValueError):
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            cost = summary.get("cost") if isinstance(summary, dict) else None
            if isinstance(cost, dict):
                return cost
    return None


def synthesis_of(data: Any) -> list[dict[str, Any]]:
    """What the generated sets in a `data` node cost, each once, as their `generation.json` says."""
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(set(_generated_sets(data))):
        with suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
            found[str(about["content_hash"])] = {
                "name": about["name"],
                "identity": about["identity"],
                "pictures": about["pictures"]["drawn"],
                "accelerator_hours": float(about["accelerator_hours"]),
                "cpu_process_hours": float(about["cpu_process_hours"]),
                "bytes": int(about["bytes"]),
            }
    return list(found.values())


def _generated_sets(node: Any) -> Iterator[Path]:
    """Folders of the generated sets that a `data` node, or a part of it, reads."""
    if not isinstance(node, Mapping):
        return
    for value in node.values():
        yield from _generated_sets(value)
    root = node.get("root")
    if isinstance(root, str):
        wanted = {key: node[key] for key in ("guidance_scale", "steps", "seed") if node.get(key) is not None}
        for place in (Path(root), *Path(root).glob("*"), *Path(root).glob("*/*")):
            if (place / "generation.json").is_file() and _made_with(place, wanted):
                yield place


def _made_with(folder: Path, wanted: Mapping[str, Any]) -> bool:
    with suppress(OSError, ValueError, KeyError, TypeError):
        made = json.loads((folder / "set.json").read_text(encoding="utf-8"))["generation"]
        facts = {**made.get("settings", {}), "seed": made.get("seed")}
        return all(facts.get(key) == value for key, value in wanted.items())
    return False


def _hours(value: float) -> float:
    return round(value, 6)
