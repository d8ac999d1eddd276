"""What is told of a set: before, while and after it is made."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console

from lgrep.data.preparing.shards import written_whole
from lgrep.files import write_text
from lgrep.generation.broken import BROKEN, UNSAFE
from lgrep.generation.captions import Captions
from lgrep.generation.engine import Engine, lowered_batches
from lgrep.generation.plan import work_folder
from lgrep.generation.storage import Finished
from lgrep.records import provenance

SUMMARY = "generation.json"
_LOOK = 2.0  # seconds between two looks at the finished shards


class Watch:
    """Counts pictures, whoever makes them.

    Args:
        engine: of this process.
        images: pictures per caption.
    """

    def __init__(self, engine: Engine, images: int) -> None:
        self.engine, self.images = engine, images
        self.shards = engine.plan.shards(images)
        self.total = images * engine.plan.captions
        self._sizes = {f"{shard.name}.json": len(shard.captions) for shard in self.shards}
        self._known = (0.0, 0)
        self.before = self._finished()
        self.started = time.monotonic()

    def done(self) -> int:
        """Pictures of shards that were finished since the start, and those in this process's hand."""
        if time.monotonic() - self._known[0] > _LOOK:
            self._known = (time.monotonic(), self._finished())
        return max(0, min(self._known[1] - self.before + self.engine.in_hand, self.total - self.before))

    def _finished(self) -> int:
        there = {path.name for path in self.engine.storage.records.iterdir()}
        return sum(size for name, size in self._sizes.items() if name in there)

    def tell(self, captions: Captions, missing: int) -> None:
        """Print what is to be made."""
        plan, painter = self.engine.plan, self.engine.painter
        settings = painter.settings
        console = Console(highlight=False)
        lines = [
            f"set          {plan.name}/{plan.identity}  ({self.engine.folder})",
            f"captions     {len(captions):,}, {self.images} pictures each = {self.total:,} pictures",
            f"drawn by     {painter.facts['pipeline_class']}, {painter.facts['scheduler']['class']}, {settings.steps} steps, "
            f"guidance scale {settings.guidance_scale:g}, {painter.width} x {painter.height} px, {painter.facts['dtype']}",
            f"batches      {self.engine.batch_size()} captions on {painter.device}",
            f"to do        {missing:,} of {len(self.shards):,} shards",
        ]
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)


def write_summary(
    engine: Engine, images: int, about: dict[str, Any], captions: Captions, watch: Watch
) -> dict[str, Any]:
    """Write `generation.json` and the list of captions left out, and print the main numbers.

    Returns:
        The summary; `accelerator_hours` counts what all processes spent on the finished shards, on GPUs, and
        `cpu_process_hours` the same on CPUs.
    """
    records = [record for shard in watch.shards if (record := engine.storage.finished(shard)) is not None]
    seconds = _by_device(records)
    on_gpus = sum(value for name, value in seconds.items() if name != "cpu")
    pictures, drawn, spent = about["pictures"], sum(r.drawn for r in records), sum(seconds.values())
    cut = sum(record.truncated for record in records) // images  # every shard of a block counts the same captions
    broken = {name: sum(record.counts.get(name, 0) for record in records) for name in (*BROKEN, UNSAFE)}
    summary: dict[str, Any] = {
        "name": engine.plan.name,
        "identity": engine.plan.identity,
        "run_dir": str(engine.folder),
        "finished": True,
        "images_per_caption": images,
        "captions": {"drawn": len(captions), "empty": len(captions.skipped), "merged": captions.merged, "truncated": cut},
        "pictures": {"stored": pictures, "planned": watch.total, "drawn": drawn, "drawn_again": drawn - watch.total,
                     "left_out": about["generation"]["left_out"], "not_stored": {k: v for k, v in broken.items() if v}},
        "bytes": sum(record.size for record in records),
        "seconds": {"this_command": round(time.monotonic() - watch.started, 1), "by_device": seconds},
        "accelerator_hours": round(on_gpus / 3600, 5),
        "cpu_process_hours": round((spent - on_gpus) / 3600, 5),
        "speed": {"pictures_per_second": round(watch.total / spent, 3) if spent else None},
        "batch_size": {"planned": engine.plan.batch_size, "lowered": lowered_batches(engine.folder)},
        "content_hash": about["content_hash"],
        "metrics": {"generation/pictures": float(pictures), "generation/left_out_share": 1 - pictures / watch.total},
        **provenance(),
    }  # fmt: skip
    _write_skipped(engine, captions)
    write_text(engine.folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    _tell(summary)
    return summary


def _by_device(records: list[Finished]) -> dict[str, float]:
    found: dict[str, float] = {}
    for record in records:
        found[record.device] = round(found.get(record.device, 0.0) + record.seconds, 3)
    return found


def _write_skipped(engine: Engine, captions: Captions) -> None:
    path = engine.folder / "skipped.jsonl"
    if captions.skipped:
        with written_whole(path, work_folder(engine.folder)) as partial:
            lines = [json.dumps({"caption": name, "reason": reason}) + "\n" for name, reason in captions.skipped]
            partial.write_text("".join(lines), encoding="utf-8")


def _tell(summary: dict[str, Any]) -> None:
    console = Console(highlight=False)
    counts, speed = summary["pictures"], summary["speed"]["pictures_per_second"]
    hours = f"{summary['accelerator_hours']:.3f} GPU hours" if summary["accelerator_hours"] else (
        f"{summary['cpu_process_hours']:.3f} CPU process hours")  # fmt: skip
    left = ", ".join(f"{number:,} {name}" for name, number in counts["left_out"].items())
    lines = [
        f"{counts['stored']:,} pictures, {summary['bytes'] / 2**20:,.1f} MB, {speed:,.2f} pictures/s per process, {hours}",
        *([f"left out: {left}"] if left else []),
        *([f"drawn again: {counts['drawn_again']:,}"] if counts["drawn_again"] else []),
        *([f"{summary['captions']['truncated']:,} captions are longer than the text encoder reads"]
          if summary["captions"]["truncated"] else []),
        f"train with data=generated data.root={summary['run_dir']} pairing=siblings",
    ]  # fmt: skip
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
