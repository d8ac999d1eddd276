"""Drawing what is missing of a set, beside any number of other processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from lgrep.data.notices import notice, reason_of, shown
from lgrep.errors import ConfigError, DataError, LgrepError
from lgrep.generation.broken import BROKEN, NAN, OK, difference_hash
from lgrep.generation.claims import Claims
from lgrep.generation.noise import Key
from lgrep.generation.painter import Painter, prompt
from lgrep.generation.plan import WORK, Plan, Shard, durable, planned_captions
from lgrep.generation.storage import Drawn, Storage

SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_POLL = 0.3  # seconds between two looks at what other processes do
_ENCODERS = 4  # threads that encode while the device draws


class Engine:
    """One process's part in making a set.

    The unit of work is a batch: which captions it holds, and from which noise each of its pictures starts, follow from
    the plan. So the bytes of a shard do not depend on who makes it, nor on how often that was interrupted.

    Args:
        folder: of the set; its plan is there.
        plan: of the set.
        painter: draws batches.
        worker: number of this process and of all, where they are told; decides only where it begins.
        claims: who makes what.
    """

    def __init__(
        self, folder: Path, plan: Plan, painter: Painter, worker: tuple[int, int] = (0, 1), claims: Claims | None = None
    ) -> None:
        self.folder, self.plan, self.painter, self.worker = folder, plan, painter, worker
        self.storage = Storage(folder)
        self.claims = claims or Claims(folder / WORK / "claims")
        self.captions = planned_captions(folder)
        self.in_hand = 0  # pictures of the shard that is being made
        self._lowered = folder / WORK / "batch_size.json"

    def run(self, images: int) -> None:
        """Make every shard that is missing, and wait for those that other processes make.

        Args:
            images: pictures per caption.

        Raises:
            ConfigError: not even one picture fits into memory.
            DataError: all pictures of a shard are broken.
            LgrepError: a file cannot be written; finished shards are kept.
        """
        shards = self.plan.shards(images)
        start = len(shards) * self.worker[0] // max(1, self.worker[1])
        pending = [shard for shard in shards[start:] + shards[:start] if self.storage.finished(shard) is None]
        while pending:
            busy = [shard for shard in pending if not self._made(shard)]
            pending = [shard for shard in busy if self.storage.finished(shard) is None]
            if pending and len(pending) == len(busy):
                time.sleep(_POLL)

    def _made(self, shard: Shard) -> bool:
        """Make a shard unless another process is about it; whether that was not so."""
        with _written(self.folder), self.claims.take(shard.name) as mine:
            if not mine:
                return False
            while self.storage.finished(shard) is None:
                size = self.batch_size()
                try:
                    self._make(shard, size)
                except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                    if not _out_of_memory(error):
                        raise
                    self._lower(shard, size)
        return True

    def _make(self, shard: Shard, size: int) -> None:
        todo, made, seconds, drawn = list(shard.captions), {}, 0.0, 0
        try:
            for attempt in range(self.painter.settings.retries + 1):
                for picture, share in self._passed(shard, size, attempt, todo):
                    made[picture.caption] = picture
                    seconds, drawn = seconds + share, drawn + 1
                todo = [caption for caption in todo if made[caption].status in BROKEN]
                if not todo:
                    break
        finally:
            self.in_hand = 0
        self._judge(shard, list(made.values()))
        pictures = [made[caption] for caption in shard.captions]
        begun = time.monotonic()
        facts = {"drawn": drawn, "batch_size": size, "device": self.painter.device_kind}
        about = self._about(shard)
        written = round(seconds + time.monotonic() - begun, 3)
        self.storage.write(shard, pictures, SUFFIXES[self.painter.settings.codec], about, {**facts, "seconds": written})

    def _passed(self, shard: Shard, size: int, attempt: int, todo: Sequence[int]) -> Iterator[tuple[Drawn, float]]:
        """Draw captions in batches, those that were kept aside; yields pictures with their share of the time."""
        with ThreadPoolExecutor(_ENCODERS) as encoders, ThreadPoolExecutor(1) as writer:
            waiting: list[Future[tuple[list[Drawn], float]]] = []
            for start in range(0, len(todo), size):
                batch, name = todo[start : start + size], f"{attempt}-{start:07d}"
                kept = self.storage.read_part(shard, size, name)
                if kept is not None and [picture.caption for picture in kept[0]] == list(batch):
                    waiting.append(_ready(kept))
                else:
                    begun = time.monotonic()
                    drawn = self._draw(shard, size, attempt, batch, encoders)
                    waiting.append(writer.submit(self._keep, shard, size, name, drawn, time.monotonic() - begun))
                self.in_hand = min(self.in_hand + len(batch), len(shard.captions))
                while len(waiting) > 2:  # at most two batches are on their way to the disk
                    yield from _shares(waiting.pop(0).result())
            for future in waiting:
                yield from _shares(future.result())

    def _draw(
        self, shard: Shard, size: int, attempt: int, batch: Sequence[int], encoders: ThreadPoolExecutor
    ) -> list[Future[Drawn]]:
        rows = self.captions.take(pa.array(batch))
        ids, texts = rows["id"].to_pylist(), rows["text"].to_pylist()
        keys = [Key(self.plan.seed, caption, shard.index, attempt) for caption in ids]
        pixels, status, flagged = self.painter(texts, keys, size)
        return [
            encoders.submit(self._encoded, Drawn(caption, shard.index, attempt, now, flag, 0), picture)
            for caption, picture, now, flag in zip(batch, pixels, status, flagged, strict=True)
        ]

    def _encoded(self, drawn: Drawn, pixels: Any) -> Drawn:
        if drawn.status != OK:
            return drawn
        settings, picture = self.painter.settings, Image.fromarray(pixels)
        short = min(picture.size)
        if settings.save_size is not None and settings.save_size != short:
            width, height = (round(side * settings.save_size / short) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        buffer = BytesIO()
        picture.save(
            buffer, settings.codec.upper(), **({} if settings.codec == "png" else {"quality": settings.quality})
        )
        return Drawn(
            drawn.caption, drawn.index, drawn.attempt, OK, drawn.flagged, difference_hash(picture), buffer.getvalue()
        )

    def _keep(
        self, shard: Shard, size: int, name: str, futures: Sequence[Future[Drawn]], seconds: float
    ) -> tuple[list[Drawn], float]:
        drawn = [future.result() for future in futures]
        self.storage.write_part(shard, size, name, drawn, round(seconds, 4))
        return drawn, seconds

    def _judge(self, shard: Shard, pictures: Sequence[Drawn]) -> None:
        """Stop where nothing that is drawn can be used."""
        broken = [picture for picture in pictures if picture.status in BROKEN]
        if len(broken) < len(pictures) or not broken:
            return
        self.storage.drop_parts(shard)
        worst = NAN if any(picture.status == NAN for picture in broken) else broken[0].status
        hint = (
            "generator.dtype=float32 or bfloat16" if worst == NAN else "another generator.guidance_scale or scheduler"
        )
        raise DataError(
            f"all {len(pictures):,} pictures of {shard.name} are {worst}, also after {self.painter.settings.retries} more "
            f"tries. Type {hint}, or another generator.pipeline=..."
        )

    def _about(self, shard: Shard) -> dict[int, dict[str, Any]]:
        """What the tar file tells of each picture of a shard."""
        rows = self.captions.slice(shard.captions.start, len(shard.captions))
        ids, texts = rows["id"].to_pylist(), rows["text"].to_pylist()
        cut = self.painter.too_long(texts)
        settings = self.plan.settings
        common = {
            "seed": self.plan.seed,
            "index": shard.index,
            **{name: settings.get(name) for name in ("guidance_scale", "steps", "negative_prompt")},
            "scheduler": self.plan.painter.get("scheduler", {}).get("class"),
            "set": self.plan.identity,
        }
        return {
            caption: {"caption": text, "prompt": prompt(text), "caption_id": name, "truncated": long, **common}
            for caption, name, text, long in zip(shard.captions, ids, texts, cut, strict=True)
        }

    def batch_size(self) -> int:
        """Captions drawn at once: the plan's, or fewer since memory ran out."""
        return lowered_batches(self.folder)[-1]["to"] if self._lowered.is_file() else self.plan.batch_size

    def _lower(self, shard: Shard, size: int) -> None:
        """Note that shards not yet finished are made with half the batch."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise ConfigError(
                "not even one picture fits into memory. Type generator.dtype=float16, a smaller generator.size, "
                "generator.vae_slicing=true or generator.attention_slicing=true"
            )
        if self.batch_size() == size:  # nobody else did it meanwhile
            history = [*lowered_batches(self.folder), {"from": size, "to": size // 2, "at": shard.name}]
            with durable(self._lowered, self.folder) as partial:
                partial.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
            notice(f"out of memory with a batch of {size}: unfinished shards are made with {size // 2} (recorded)")
        self.storage.drop_parts(shard)


def lowered_batches(folder: Path) -> list[dict[str, Any]]:
    """When memory ran out, and from which batch size to which one went."""
    path = folder / WORK / "batch_size.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found


def _shares(batch: tuple[list[Drawn], float]) -> Iterator[tuple[Drawn, float]]:
    pictures, seconds = batch
    return ((picture, seconds / len(pictures)) for picture in pictures)


def _ready(value: tuple[list[Drawn], float]) -> Future[tuple[list[Drawn], float]]:
    future: Future[tuple[list[Drawn], float]] = Future()
    future.set_result(value)
    return future


def _out_of_memory(error: BaseException) -> bool:
    known = ("out of memory", "can't allocate", "alloc_failed")
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(part in text for part in known)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Say what to do when a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise LgrepError(
            f"{reason_of(error)} while writing to {shown(folder)}. Finished batches are kept: make room, or mend what is "
            "wrong, and type the same command to go on"
        ) from error
