"""Turning any table into a picture set: in parallel, resumable at any moment, the same bytes whatever happens."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader

from lgrep.data.failures import named_failures
from lgrep.data.notices import reason_of, shown
from lgrep.data.preparing.encoding import Encoding
from lgrep.data.preparing.shards import ShardResult, Shards, skipped_lines, written_whole
from lgrep.data.preparing.tables import PreparedTables
from lgrep.data.progress import Progress
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError, LgrepError

WORK = "preparing"  # sub-folder for what is not finished
SHARD_ROWS = 10_000
_PATIENCE = 10.0  # seconds that processes of a killed run are given to end
_ADVICE = "Type workers=N with fewer processes. The same command goes on from what is finished"


def prepare(
    table: Table,
    out: str | Path,
    encoding: Encoding | None = None,
    shard_rows: int = SHARD_ROWS,
    workers: int = 0,
    max_skip_share: float = 0.1,
    name: str | None = None,
    left_out: Sequence[tuple[str, str]] = (),
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a table as a picture set (`lgrep.data.table` describes the format).

    A shard holds a fixed range of rows, and files appear whole or not at all: a run that ended at any moment is
    continued by the same call, and the set has the same bytes whatever the number of processes. Broken pictures are
    left out and named in `skipped.jsonl`.

    Args:
        table: the pictures.
        out: folder of the set; new, empty, or of a run with the same settings.
        encoding: what is stored of each picture; the default keeps its bytes and decodes it once.
        shard_rows: rows of a shard, which is what a kill can cost per process.
        workers: processes; 0: this one.
        max_skip_share: largest share of pictures that may be left out.
        name: of the set; None: the table's.
        left_out: (picture, reason) of what the source left out, for `skipped.jsonl`.
        extra: plain JSON data kept in `set.json`.

    Returns:
        The content of `set.json`, and `skipped`, the number of pictures left out.

    Raises:
        ConfigError: the folder holds something else.
        DataError: too many pictures are broken, or a process died of one.
        LgrepError: a file cannot be written, for example on a full disk; finished shards are kept.
    """
    folder = Path(out)
    encoding = encoding or Encoding()
    plan = {"source": table.content_hash, "rows": len(table), "shard_rows": shard_rows, **asdict(encoding)}
    if not len(table):
        raise DataError(f"{table.name} has no pictures")
    before = _finished_set(folder, plan)
    if before is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _own(folder, plan) as work:
                shards = Shards(table, encoding, folder, work, shard_rows)
                skipped = _write_shards(shards, workers, max_skip_share)
                before = _finish(shards, name or table.name, plan, skipped, left_out, extra or {})
        except OSError as error:
            place = f" while writing {shown(error.filename)}" if error.filename else f" while writing to {folder}"
            raise LgrepError(
                f"{reason_of(error)}{place}. {_finished_count(folder)} finished shards are kept. Make room, or mend what "
                "is wrong, and type the same command to go on"
            ) from error
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return before


def _finished_set(folder: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The content of `set.json` if the folder holds this very set; None if it is yet to be made."""
    path = folder / "set.json"
    if path.is_file():
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _check_plan(folder, about.get("prepared"), plan)
        return about
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder} is a file. Type out=DIR with a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / WORK).is_dir():
        raise ConfigError(f"out={folder} is not empty. Type out=DIR with a new folder")
    return None


def _check_plan(folder: Path, found: Any, plan: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise ConfigError(f"out={folder} holds a set that was not made here. Type out=DIR with a new folder")
    changed = [key for key in plan if found.get(key) != plan[key]]
    if changed:
        listed = ", ".join(f"{key}={found.get(key)} there and {plan[key]} now" for key in changed)
        raise ConfigError(f"out={folder} holds another set or its beginning ({listed}). Type out=DIR with a new folder")


@contextmanager
def _own(folder: Path, plan: dict[str, Any]) -> Iterator[Path]:
    """The sub-folder for unfinished files, for one run at a time; remnants of a killed one are removed."""
    work = folder / WORK
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ConfigError(f"another process is preparing out={folder}; wait for it to end") from error
                time.sleep(0.1)
        for remnant in [*work.glob("*.partial-*"), *work.glob("column-*")]:
            remnant.unlink(missing_ok=True)
        path = work / "plan.json"
        if path.is_file():
            _check_plan(folder, json.loads(path.read_text(encoding="utf-8")), plan)
        else:
            with written_whole(path, work) as partial:
                partial.write_text(json.dumps(plan), encoding="utf-8")
        yield work


def _write_shards(shards: Shards, workers: int, max_skip_share: float) -> int:
    """Write what is not finished; the number of pictures that were left out."""
    results = [result for number in range(len(shards)) if (result := shards.finished(number)) is not None]
    pending = sorted(set(range(len(shards))) - {result.number for result in results})
    before, rows = sum(result.rows for result in results), len(shards.table)
    skipped = sum(result.skipped for result in results)
    _judge(shards, skipped, max_skip_share)
    with (
        warnings.catch_warnings(),
        named_failures(SimpleNamespace(dataset=shards), _ADVICE),
        Progress(
            rows, before, lambda: int(shards.done.sum()), "pictures", lambda: f"{skipped:,} left out" * (skipped > 0)
        ),
    ):
        warnings.simplefilter("ignore", UserWarning)  # torch counts cores, but reading waits for disks
        try:
            for result in _results(shards, pending, workers):
                if result.error is not None:
                    raise result.error
                skipped += result.skipped
                _judge(shards, skipped, max_skip_share)
        finally:
            shards.stop.fill_(True)
    return skipped


def _results(shards: Shards, pending: Sequence[int], workers: int) -> Iterable[ShardResult]:
    """Write the pending shards; results come as they are ready."""
    if not pending:
        return ()
    workers = min(workers, len(pending))
    return DataLoader(
        shards,
        batch_size=None,
        sampler=pending,
        num_workers=workers,
        in_order=False,
        prefetch_factor=1 if workers else None,
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),
    )


def _judge(shards: Shards, skipped: int, max_skip_share: float) -> None:
    """Stop as soon as the whole set must have too many broken pictures."""
    if skipped <= max_skip_share * len(shards.table):
        return
    files = [shards.rows_file(number) for number in range(len(shards)) if shards.finished(number) is not None]
    lines = [line for file in files for line in skipped_lines(file)]
    path = shards.folder / "skipped.jsonl"
    with written_whole(path, shards.work) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
    first = json.loads(lines[0])
    raise DataError(
        f"{skipped:,} of {len(shards.table):,} pictures are broken, more than max_skip_share={max_skip_share}; the first: "
        f"{first['where']} ({first['reason']}). All so far are in {path}. Mend the data, or type max_skip_share=1 to go on"
    )


def _finish(
    shards: Shards,
    name: str,
    plan: dict[str, Any],
    skipped: int,
    left_out: Sequence[tuple[str, str]],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The tables of finished shards, and the record of what was left out."""
    tables = PreparedTables(shards)
    by_source = [{"row": None, "picture": shown(item), "where": None, "reason": reason} for item, reason in left_out]
    if skipped or by_source:
        with (
            written_whole(shards.folder / "skipped.jsonl", shards.work) as partial,
            partial.open("w", encoding="utf-8") as out,
        ):
            out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in by_source)
            out.writelines(tables.skipped())
    else:
        (shards.folder / "skipped.jsonl").unlink(missing_ok=True)
    return tables.write(name, {**extra, "skipped": skipped, "prepared": plan})


def _finished_count(folder: Path) -> int:
    return len(list((folder / WORK).glob("rows-*.arrow")))


def _ignore_interrupt(_: int) -> None:
    """A Ctrl-C reaches every process; the first one asks the others to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
