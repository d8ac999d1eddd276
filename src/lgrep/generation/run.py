"""`generate.py`: from a configuration to a finished set."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lgrep.config.compose import parse
from lgrep.config.schema import GenerateConfig
from lgrep.config.sources import build_source, source_spec
from lgrep.config.spec import build, validate_spec
from lgrep.data.notices import examples, notice, shown
from lgrep.data.progress import Progress
from lgrep.data.workers import usable_cores
from lgrep.errors import ConfigError, LgrepError
from lgrep.generation.captions import Captions, captions_in, captions_of
from lgrep.generation.claims import Claims
from lgrep.generation.engine import Engine
from lgrep.generation.loading import load_pipeline
from lgrep.generation.manifest import Manifest, Selection
from lgrep.generation.painter import Painter, digest
from lgrep.generation.plan import WORK, Plan, read_plan
from lgrep.generation.probing import batch_size
from lgrep.generation.scores import ClipScores
from lgrep.generation.settings import Generator, check_generator
from lgrep.generation.storage import Storage
from lgrep.generation.summary import Watch, write_summary

_RANKS = (("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"), ("RANK", "WORLD_SIZE", ""),
          ("SLURM_PROCID", "SLURM_NTASKS", ""))  # fmt: skip


@dataclass
class Resolved:
    """A checked configuration; nothing is read or loaded yet.

    Attributes:
        config: typed configuration.
        settings: the generator.
        name: of the set.
    """

    config: GenerateConfig
    settings: Generator
    name: str


def resolve(values: dict[str, Any], choices: dict[str, str]) -> Resolved:
    """Check a composed configuration.

    Raises:
        ConfigError: unknown keys, wrong values, or settings that contradict each other.
    """
    config = parse(GenerateConfig, values)
    config.generator = validate_spec(config.generator, "generator")
    settings: Generator = build(config.generator)
    check_generator(settings)
    if config.min_clip_score is not None and config.clip_model is None:
        raise ConfigError("min_clip_score needs a CLIP. Type clip_model=open_clip/MODEL/TAG, or min_clip_score=null")
    if config.captions is None:
        config.data = source_spec(config.data)
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={config.device}, but this machine has no GPU that torch can use. Type device=cpu")
    origin = Path(config.captions).stem if config.captions else choices.get("data", "data")
    return Resolved(config, settings, config.name or f"{choices.get('generator', 'generator')}_{origin}")


def generate(values: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """Make a set, or what is missing of it.

    Returns:
        The summary that is also in `generation.json`.
    """
    resolved = resolve(values, choices)
    config, settings = resolved.config, resolved.settings
    captions = _captions(config)
    worker = worker_number()
    count = _processes(config)
    device = _device(config, 0)
    _set_threads(config, device)
    painter = Painter(load_pipeline(settings, device), settings, device)
    folder, plan = prepare(Path(config.out), resolved, captions, painter)
    storage = Storage(folder)
    shards = plan.shards(settings.images_per_caption)
    if config.verify and worker[0] == 0:
        storage.drop_damaged(plan.shards(_most_images(storage)))
    engine = Engine(folder, plan, painter, worker)
    watch = Watch(engine, settings.images_per_caption)
    missing = sum(storage.finished(shard) is None for shard in shards)
    watch.tell(captions, missing)
    helpers = _start_helpers(min(count, missing), config, settings, folder)
    try:
        with Progress(watch.total, watch.before, watch.done, "pictures") if missing else nullcontext():
            engine.run(settings.images_per_caption)
    finally:
        for helper in helpers:
            if helper.exitcode:
                notice(f"a helping process ended with code {helper.exitcode}; others did its work")
            helper.terminate()  # it has nothing left to do, or may still be loading
    about = _assemble(config, settings, engine)
    return write_summary(engine, settings.images_per_caption, about, captions, watch)


def prepare(out: Path, resolved: Resolved, captions: Captions, painter: Painter) -> tuple[Path, Plan]:
    """The folder of a set, with its plan in it.

    Raises:
        LgrepError: the folder cannot be written.
    """
    settings = resolved.settings
    seed, place = resolved.config.seed, out / resolved.name
    texts = captions.table["text"].slice(0, 256).to_pylist()

    def planned(size: int) -> Plan:
        block = settings.captions_per_shard(len(captions), size, painter.height, painter.width)
        return Plan(resolved.name, len(captions), captions.digest(), seed, size, block, painter.facts, settings.facts())

    try:
        place.mkdir(parents=True, exist_ok=True)
        size = settings.batch_size
        if size == "auto":
            size = batch_size(
                place / f".batch-{digest([planned(1).identity, painter.device_kind])}.json", painter, texts
            )
        plan = planned(size)
        folder = place / plan.identity
        with Claims(folder / WORK / "claims").take("plan"):  # whoever is second finds it, or writes the same
            plan.write(folder, captions)
    except OSError as error:
        raise LgrepError(f"cannot write to out={shown(out)} ({error.strerror or error}). Type out=DIR") from error
    return folder, plan


def worker_number() -> tuple[int, int]:
    """Number of this process and of all, as SLURM or torchrun tell them; (0, 1) where nobody does."""
    for rank, world, first in _RANKS:
        try:
            return int(os.environ[rank]) - int(os.environ.get(first, "0") if first else 0), int(os.environ[world])
        except (KeyError, ValueError):
            continue
    return 0, 1


def _captions(config: GenerateConfig) -> Captions:
    if config.captions is not None:
        found = captions_in(config.captions, config.caption_column)
    else:
        found = captions_of(build_source(config.data).training())
    found = found.limited(config.limit, config.limit_seed)
    if found.skipped and worker_number()[0] == 0:
        notice(f"{len(found.skipped):,} captions are left out: {examples(found.skipped)}")
    if found.merged and worker_number()[0] == 0:
        notice(f"{found.merged:,} captions repeat earlier ones and count once")
    return found


def _processes(config: GenerateConfig) -> int:
    """Processes on this machine; a launcher that started several starts them all."""
    if config.processes != "auto":
        return config.processes
    if "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return 1
    if _device(config, 0).startswith("cuda"):
        return torch.cuda.device_count() if config.device == "auto" else 1
    return max(1, usable_cores() // config.threads)


def _device(config: GenerateConfig, number: int) -> str:
    if config.device != "auto":
        return config.device
    if not torch.cuda.is_available():
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return f"cuda:{(local + number) % torch.cuda.device_count()}"


def _set_threads(config: GenerateConfig, device: str) -> None:
    """On a CPU results may depend on the number of threads, so that all processes have the same."""
    if not device.startswith("cuda"):
        torch.set_num_threads(config.threads)


def _start_helpers(count: int, config: GenerateConfig, settings: Generator, folder: Path) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    helpers = [
        context.Process(target=_help, args=(config, settings, folder, number, count), daemon=True)
        for number in range(1, count)
    ]
    for helper in helpers:
        helper.start()
    return helpers


def _help(config: GenerateConfig, settings: Generator, folder: Path, number: int, count: int) -> None:
    """A further process on this machine; it ends with the one that started it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    device = _device(config, number)
    _set_threads(config, device)
    try:
        plan = read_plan(folder)
        painter = Painter(load_pipeline(settings, device), settings, device)
        if painter.facts != plan.painter:
            raise ConfigError("the pipeline changed while it was loaded")
        Engine(folder, plan, painter, (number, count)).run(settings.images_per_caption)
    except (LgrepError, KeyboardInterrupt) as error:
        print(f"helping process {number}: {error or 'interrupted'}", file=sys.stderr)
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _most_images(storage: Storage) -> int:
    """Pictures per caption of which there are records."""
    found = [int(path.stem.rpartition("-")[2]) for path in storage.records.glob("shard-*-*.json")]
    return 1 + max(found, default=-1)


def _assemble(config: GenerateConfig, settings: Generator, engine: Engine) -> dict[str, Any]:
    """The set of what the shards hold; one process writes it while the others wait."""
    scores = None
    storage, shards = engine.storage, engine.plan.shards(settings.images_per_caption)
    if config.clip_model is not None:
        scores = ClipScores(config.clip_model, engine.painter.device)
        scores.fill(storage, shards, engine.captions, engine.claims)
    selection = Selection(
        settings.images_per_caption, config.near_duplicates, config.min_clip_score, scores.key if scores else None
    )
    while True:
        with engine.claims.take("manifest") as mine:
            if mine:
                return Manifest(storage, engine.plan, selection, scores).write()
        time.sleep(0.2)
