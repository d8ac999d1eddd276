"""Tables at scale: opening time, memory per process, random access to rows and to pictures in archives.

    python benchmarks/tables.py --out benchmarks/tables          everything (a few minutes, 3 GB of disk)
    python benchmarks/tables.py --pictures 1000000               a smaller table

The table is made up: every picture has its own caption of 60 letters, and shards are sparse files. Memory of a process is
what it has written (Private_Dirty of /proc/PID/smaps_rollup), and what it holds alone (USS: with pages of files that no
other process maps at that moment, which the system can drop), less what it was before it had the table.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import mmap
import multiprocessing
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgrep.data.shards import write_tables
from lgrep.data.sources import WebDataset, ZipSource
from lgrep.data.stores import ArchiveStore
from lgrep.data.table import Table, open_set
from lgrep.records import provenance

PICTURE = 30_000  # bytes
PER_SHARD = 10_000
PROBES = 20_000  # rows that each worker looks at
Note = Callable[[str, str, float, str], None]
TABLE: Table | None = None  # what forked workers inherit


def numbered(prefix: str, count: int, width: int) -> pa.Array:
    """Texts of `width` letters that end in their number, made without Python strings."""
    letters = np.frombuffer(prefix.encode().ljust(width, b"."), np.uint8)
    data = np.broadcast_to(letters, (count, width)).copy()
    number = np.arange(count)
    for place in range(1, 10):
        data[:, -place] = 48 + number % 10
        number //= 10
    offsets = (np.arange(count + 1) * width).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def make_set(folder: Path, pictures: int) -> Path:
    folder.mkdir()
    row = np.arange(pictures)
    shards = [f"shard-{number:05d}.zip" for number in range(-(-pictures // PER_SHARD))]
    for name in shards:
        with (folder / name).open("wb") as file:
            file.truncate(PER_SHARD * PICTURE)
    columns = {
        "id": numbered("picture-", pictures, 24),
        "group": pa.array(row.astype(np.int32)),
        "label": pa.array((row % 1000).astype(np.int32)),
        "shard": pa.array((row // PER_SHARD).astype(np.int32)),
        "offset": pa.array(row % PER_SHARD * PICTURE),
        "size": pa.array(np.full(pictures, PICTURE, np.int32)),
    }
    captions = {
        "id": numbered("caption-", pictures, 24),
        "text": numbered("a photo of something, taken at ", pictures, 60),
    }
    write_tables(folder, pa.table(columns), pa.table(captions))
    about = {"format": 1, "name": "made", "shards": shards, "content_hash": "0" * 16}
    (folder / "set.json").write_text(json.dumps(about))
    return folder


def private_mb() -> np.ndarray[Any, Any]:
    """Megabytes that this process has written, and those that it holds alone (pages of files that no other maps too)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    dirty = kilobytes["Private_Dirty"]
    return np.array([dirty, dirty + kilobytes["Private_Clean"]]) / 1024


def drop_cache(folder: Path) -> None:
    """Ask the system to forget the files' pages."""
    for path in folder.glob("*.arrow"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def opened(folder: Path) -> dict[str, float]:
    """Seconds and private megabytes of opening a set in this process."""
    open_set(Path(__file__).parent / "../src/lgrep/data/emoji/set")  # imports and first calls
    before = private_mb()
    start = time.perf_counter()
    table = open_set(folder)
    seconds = time.perf_counter() - start
    written, alone = (private_mb() - before).tolist()
    return {"seconds": seconds, "written": written, "alone": alone, "rows": len(table)}


def look(table: Table, rows: Iterable[int]) -> int:
    total = 0
    store: Any = table.store
    for row in rows:
        total += len(table.caption(row)) + table.caption_row(row)
        total += int(store.shard[row]) + int(store.offset[row]) + int(store.size[row])
    return total


def worker(number: int, packed: bytes | None, waiting: Any, answers: Any) -> None:
    before = private_mb()
    table = TABLE if packed is None else pickle.loads(packed)
    assert table is not None
    has = private_mb()
    look(table, np.random.default_rng(number).integers(0, len(table), PROBES))
    waiting.wait()  # all have the table and its pages now
    answers.put([*(has - before), *(private_mb() - before)])
    waiting.wait()


def workers(table: Table, method: str, count: int) -> dict[str, float]:
    """The most private megabytes of `count` workers that have the table and looked at random rows."""
    global TABLE
    context = multiprocessing.get_context(method)
    waiting, answers = context.Barrier(count), context.Queue()
    packed = pickle.dumps(table) if method == "spawn" else None
    TABLE = table
    processes = [context.Process(target=worker, args=(n, packed, waiting, answers)) for n in range(count)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    sent = {} if packed is None else {"pickled table": len(packed) / 2**20}
    names = (
        "received, written",
        "received, held alone",
        f"{PROBES:,} rows read, written",
        f"{PROBES:,} rows read, held alone",
    )
    return {f"memory, table {name}": value for name, value in zip(names, np.max(found, axis=0), strict=True)} | sent


def per_second(read: Callable[[int], Any], rows: Sequence[int], repeats: int = 5) -> float:
    """Median calls per second."""
    for row in rows[:1000]:
        read(row)
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        for row in rows:
            read(row)
        rates.append(len(rows) / (time.perf_counter() - start))
    return statistics.median(rates)


def archives(folder: Path, pictures: int = 8000) -> tuple[Table, Table, Table]:
    """The same random bytes in 4 tar files, 4 stored zip files and 4 deflated ones."""
    rng = np.random.default_rng(0)
    for kind in ("tar", "stored", "deflated"):
        (folder / kind).mkdir()
    for shard in range(4):
        data = [rng.bytes(PICTURE) for _ in range(pictures // 4)]
        with tarfile.open(folder / "tar" / f"{shard}.tar", "w") as tar:
            for number, picture in enumerate(data):
                entry = tarfile.TarInfo(f"{number:08d}.jpg")
                entry.size = len(picture)
                tar.addfile(entry, io.BytesIO(picture))
        for kind, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
            with zipfile.ZipFile(folder / kind / f"{shard}.zip", "w", method) as archive:
                for number, picture in enumerate(data):
                    archive.writestr(f"{number:08d}.jpg", picture)
    tar_table = WebDataset(str(folder / "tar"), captions=()).training()
    return tar_table, ZipSource(str(folder / "stored")).training(), ZipSource(str(folder / "deflated")).training()


def small_zips(folder: Path) -> tuple[list[Path], list[str]]:
    """100 archives of 1,000 members of 3 kB each, as YFCC100M is kept."""
    folder.mkdir()
    members = [f"{number:03d}.jpg" for number in range(1000)]
    data = np.random.default_rng(0).bytes(3000)
    for number in range(100):
        with zipfile.ZipFile(folder / f"{number:03d}.zip", "w") as archive:
            for name in members:
                archive.writestr(name, data)
    return [folder / f"{number:03d}.zip" for number in range(100)], members


def mapped_reader(table: Table) -> Callable[[int], bytes]:
    """Slices of memory maps: what `ShardStore` used before."""
    store: Any = table.store
    maps = []
    for path in store.shards:
        with path.open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(row: int) -> bytes:
        start = int(store.offset[row])
        return maps[int(store.shard[row])][start : start + int(store.size[row])]

    return read


def measure_opening(note: Note, large: Path) -> None:
    for how, times in (("cold", 3), ("warm", 5)):
        results = []
        for _ in range(times):
            if how == "cold":
                drop_cache(large)
            command = [sys.executable, __file__, "--one", str(large)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
        note("open", f"{how} page cache", statistics.median(result["seconds"] for result in results), "s")
        for name in ("written", "alone"):
            note(f"open, memory {name}", f"{how} page cache", max(result[name] for result in results), "MB")


def measure_rows(note: Note, folder: Path) -> None:
    million = open_set(make_set(folder, 1_000_000))
    some = np.random.default_rng(1).integers(0, len(million), 100_000).tolist()
    store: Any = million.store
    readers: dict[str, Callable[[int], Any]] = {
        "caption": million.caption,
        "caption row": million.caption_row,
        "location": lambda row: (store.shard[row], store.offset[row], store.size[row]),
        "all three": lambda row: look(million, [row]),
    }
    for name, read in readers.items():
        note("random rows of 1M", name, per_second(read, some), "rows/s")


def measure_pictures(note: Note, folder: Path) -> None:
    tar, stored, deflated = archives(folder)
    order = np.random.default_rng(2).permutation(len(tar)).tolist()
    paths, members = small_zips(folder / "small")
    rows = np.random.default_rng(3).permutation(len(paths) * len(members)).tolist()
    by_name = ArchiveStore(paths, np.repeat(np.arange(len(paths)), len(members)), pa.array(members * len(paths)))

    def library(row: int) -> bytes:
        with zipfile.ZipFile(paths[row // len(members)]) as archive:
            return archive.read(members[row % len(members)])

    readers = {
        "tar, pread": (tar.read, order),
        "tar, mmap": (mapped_reader(tar), order),
        "zip stored, CRC": (stored.read, order),
        "zip deflated, CRC": (deflated.read, order),
        "100 zips of 1,000, by name": (by_name.read, rows[:5000]),
        "100 zips of 1,000, zipfile": (library, rows[:1200]),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(5):  # in turns, since the machine's speed changes
        for name, (read, some) in readers.items():
            rates[name].append(per_second(read, some, repeats=1))
    for name, found in rates.items():
        note("random pictures in archives", name, statistics.median(found), "rows/s")


def measure(folder: Path, pictures: int, counts: list[int]) -> list[tuple[str, str, float, str]]:
    rows: list[tuple[str, str, float, str]] = []

    def note(what: str, how: str, value: float, unit: str) -> None:
        rows.append((what, how, round(value, 3), unit))
        print(f"{what:44s} {how:28s} {value:14.2f} {unit}", flush=True)

    large = make_set(folder / "large", pictures)
    size = sum(path.stat().st_size for path in large.glob("*.arrow")) / 2**20
    note(f"table of {pictures:,} pictures", "on disk", size, "MB")
    measure_opening(note, large)
    table = open_set(large)
    for method in ("fork", "spawn"):
        for count in counts:
            for what, value in workers(table, method, count).items():
                note(what, f"{count} workers, {method}", value, "MB")
    measure_rows(note, folder / "million")
    measure_pictures(note, folder)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=12_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--out", type=Path, help="folder for results.csv and conditions.json")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(opened(options.one)))
        return
    folder = Path(tempfile.mkdtemp(prefix="lgrep-tables-"))
    try:
        rows = measure(folder, options.pictures, options.workers)
    finally:
        shutil.rmtree(folder)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "results.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("what", "how", "value", "unit"), *rows])
        about = {
            "command": " ".join(["python", *sys.argv]),
            **provenance(),
        }
        (options.out / "conditions.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
