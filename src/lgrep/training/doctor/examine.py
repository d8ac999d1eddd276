"""Runs some steps of a configuration under observation."""

from __future__ import annotations

import shlex
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from lgrep.callbacks.checkpointing import RunCheckpoint
from lgrep.callbacks.stopping import StopRequest
from lgrep.callbacks.throughput import peak_memory
from lgrep.config.locate import config_folder
from lgrep.config.messages import override_text
from lgrep.data.datamodule import PairDataModule
from lgrep.data.failures import named_failures
from lgrep.data.workers import usable_cores
from lgrep.methods.base import Method
from lgrep.methods.modules.chunks import has_batchnorm
from lgrep.ranks import rank
from lgrep.training import fit
from lgrep.training.doctor.course import Course, Keeper
from lgrep.training.doctor.ledger import Ledger, LedgerProfiler, watched, watched_acts
from lgrep.training.doctor.loading import Loading, measure_loading, watched_stages
from lgrep.training.doctor.measured import STAGES, WAITING_PART, Measured
from lgrep.training.doctor.report import show, write_report
from lgrep.training.doctor.rules import Verdict, memory_verdict, verdict
from lgrep.training.doctor.trials import try_settings
from lgrep.training.folder import RunFolder
from lgrep.training.loop import build_trainer, quieten
from lgrep.training.resolve import Resolved

STEPS = 50
WARM_UP = 3  # steps in which workers, caches and kernels get going


def examine(resolved: Resolved) -> dict[str, Any]:
    """Train for some steps in a temporary folder, print where the time goes and what helps.

    The run's own folder and its loggers are left alone; the numbers are written to `<runs>/doctor/<name>.json`.

    Returns:
        The verdict, the advice and the numbers, with `path` of the file.
    """
    config = resolved.config
    steps = STEPS if config.doctor is True else int(config.doctor)
    config.logger = {}
    data = fit.build_data(resolved)
    method = fit.build_method(resolved, data)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            measured, found = _measure(resolved, data, method, steps, Path(scratch))
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        measured = None
        batchnorm = has_batchnorm(method.backbone)
        found = memory_verdict(config.loader.batch_size, config.trainer.chunk_size, batchnorm, config.trainer.precision)
    if rank() > 0:
        return {}
    report = write_report(resolved, measured, found)
    show(resolved, measured, found, report["path"])
    return report


def _measure(
    resolved: Resolved, data: PairDataModule, method: Method, steps: int, scratch: Path
) -> tuple[Measured, Verdict]:
    folder = RunFolder(scratch)
    folder.create(resolved.values)
    ledger = Ledger()
    trainer = build_trainer(resolved, folder, WARM_UP + steps + 1, StopRequest())
    trainer.callbacks = [item for item in trainer.callbacks if not isinstance(item, RunCheckpoint)]  # type: ignore[attr-defined]
    cuda = trainer.strategy.root_device.type != "cpu"
    split = WARM_UP + (max(1, steps // 2) if cuda else 0)
    course = Course(ledger, WARM_UP, split, WARM_UP + max(steps, split - WARM_UP + 1))
    trainer.callbacks.append(Keeper(course))  # type: ignore[attr-defined]
    trainer.profiler = LedgerProfiler(ledger, "other loading" if data.workers == 0 else WAITING_PART, course.next_step)  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        print(f"examining {steps} steps of {resolved.name}, then its loading and its network alone ...", flush=True)
    with warnings.catch_warnings(), ExitStack() as stack:
        quieten()
        stack.enter_context(named_failures(data))
        stack.enter_context(watched(method, data, ledger))
        acts = stack.enter_context(watched_acts(trainer.callbacks, ledger))  # type: ignore[attr-defined]
        loaders = stack.enter_context(_watched_loader(data, ledger))
        try:
            trainer.fit(method, data)
        except SystemExit as error:  # how Lightning answers a KeyboardInterrupt
            raise KeyboardInterrupt from error
    loading = measure_loading(loaders[0], data.anchors)
    share = max(1, usable_cores() // trainer.num_devices)
    measured = _numbers(resolved, data, method, course, acts, loading, trainer.strategy.root_device, share)
    return measured, verdict(measured)


@contextmanager
def _watched_loader(data: PairDataModule, ledger: Ledger) -> Iterator[list[Any]]:
    """The loader that the run makes; where it loads in this process, its stages are counted."""
    made: list[Any] = []
    with ExitStack() as stack:

        def train_dataloader(whole: Callable[[], Any]) -> Any:
            made.append(whole())
            if data.workers == 0:
                stack.enter_context(watched_stages(made[0], ledger))
            return made[0]

        data.train_dataloader = partial(train_dataloader, data.train_dataloader)  # type: ignore[method-assign]
        try:
            yield made
        finally:
            del data.train_dataloader


def _numbers(
    resolved: Resolved,
    data: PairDataModule,
    method: Method,
    course: Course,
    acts: dict[str, list[float]],
    loading: Loading,
    device: torch.device,
    own_cores: int,
) -> Measured:
    config = resolved.config
    assert course.parts is not None and course.batch is not None
    peak = peak_memory(device)  # before the trials
    trials = try_settings(
        method.backbone, course.batch, config.trainer, config.deterministic, own_cores, course.synchronise
    )
    stages, parts, anchors = loading.stages, dict(course.parts), course.batch.num_anchors
    if data.workers == 0:
        stages = {stage: parts[stage] / anchors for stage in STAGES if stage in parts}
    elif device.type != "cpu":  # kernels overlap with waiting: only the difference tells how long nothing ran
        busy = sum(parts.values()) - parts.get(WAITING_PART, 0.0)
        parts[WAITING_PART] = max(0.0, course.step - busy)
    return Measured(
        step=course.step,
        parts=parts,
        stages=stages,
        anchors=anchors,
        pictures=anchors * course.batch.num_views,
        workers=data.workers,
        cores=own_cores,
        threads=torch.get_num_threads(),
        device=device.type,
        batch_size=config.loader.batch_size,
        view_size=max(view.size for view in data.views),
        short_side=loading.short_side,
        decoded_bytes=loading.decoded_bytes,
        cache_mb=config.loader.cache_mb,
        free_memory=_meminfo("MemAvailable"),
        peak_memory=peak,
        total_memory=_total_memory(device),
        chunk_size=config.trainer.chunk_size,
        data=_data_overrides(resolved),
        archives=getattr(data.table.store, "shard", None) is not None and config.loader.order == "random",
        trials=trials,
        loading_trials=loading.trials,
        periodic=_periodic(resolved, acts),
    )


def _data_overrides(resolved: Resolved) -> str:
    """What to type for the same data elsewhere: the choice, and the settings that its file does not give."""
    choice = resolved.choices.get("data", "NAME")
    path = config_folder() / "data" / f"{choice}.yaml"
    given: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    changed = [
        shlex.quote(f"data.{key}={override_text(value)}")
        for key, value in resolved.values["data"].items()
        if key not in ("_target_", "schedules") and (key not in given or given[key] != value)
    ]
    return " ".join([f"data={choice}", *changed])


def _periodic(resolved: Resolved, acts: dict[str, list[float]]) -> dict[str, tuple[float, int]]:
    """Setting of each periodic callback that acted -> seconds of an act, steps between acts."""
    found = {}
    for name, node in resolved.config.callbacks.items():
        kind = "" if node is None else str(node["_target_"]).rpartition(".")[2]
        if node is not None and kind in acts:
            found[name] = (sum(acts[kind]) / len(acts[kind]), int(node.get("every_n_steps", 100)))
    return found


def _total_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int:
    """Bytes of one line of Linux's memory table; 0 elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
