"""Mining that is killed, doubled or shared between processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from programs import run_program

from lgrep.data.neighbours import open_neighbours
from lgrep.data.table import open_set
from lgrep.mining import Miner, mine
from lgrep.mining.search import require_faiss
from mining.made_sets import brute_force, captioned_set, clustered

CAPTIONS = 60


SCRIPT = """
import os, signal, sys
from pathlib import Path
from lgrep.data.table import open_set
from lgrep.mining import Miner, mine, ranges
count, kill, folder = 0, int(sys.argv[2]), Path(sys.argv[3])
write = ranges.RangeFile._write
def killing(self, number, values):
    global count
    if count == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, values)
    count += 1
    with open(folder / "log", "a") as log:
        log.write(f"{self.path.name} {number}\\n")
ranges.RangeFile._write = killing
mine(open_set(sys.argv[1]), folder / "out", Miner(k=4, search="ivf_flat", range_rows=100, sample=50), folder / "cache")
"""


def test_killed_anywhere_it_goes_on_and_gives_the_same_table(tmp_path: Path) -> None:
    rows = 450
    texts = [f"t{number}" for number in range(rows)]
    table = captioned_set(tmp_path / "set", texts, clustered(rows, 16), per_caption=1)

    def run(kill: int) -> int:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "set"), str(kill), str(tmp_path)]
        return run_program(command).returncode

    assert run(6) == -signal.SIGKILL  # before what was found is written
    assert not (tmp_path / "out" / "about.json").exists()
    assert run(-1) == 0
    finished = (tmp_path / "log").read_text().splitlines()  # five ranges of vectors, the lists, what was found
    assert len(finished) == len(set(finished)) == 7  # nothing twice
    settings = Miner(k=4, search="ivf_flat", range_rows=100, sample=50)
    mine(table, tmp_path / "whole", settings, tmp_path / "other cache")
    both = [(tmp_path / name / "neighbours.arrow").read_bytes() for name in ("whole", "out")]
    assert both[0] == both[1]


def _mine(folder: str, out: str, cache: str) -> None:
    torch.set_num_threads(1)  # a forked process cannot use the threads of the first one
    require_faiss().omp_set_num_threads(1)
    mine(open_set(folder), out, Miner(k=4, dtype="float32", range_rows=4), cache)


def test_two_at_once_do_not_damage_each_other(tmp_path: Path) -> None:
    folder, vectors = tmp_path / "set", clustered(CAPTIONS, 12, clusters=5)
    captioned_set(folder, [f"t{number}" for number in range(CAPTIONS)], vectors, per_caption=1)
    context = multiprocessing.get_context("fork")
    arguments = (str(folder), str(tmp_path / "out"), str(tmp_path / "cache"))
    processes = [context.Process(target=_mine, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    found = open_neighbours(tmp_path / "out")
    found.check()
    near, best = brute_force(vectors, 4)
    assert np.array_equal(found.indices, near)
    np.testing.assert_allclose(found.similarities, best, atol=2e-6)


def test_helping_processes(tmp_path: Path) -> None:
    table = captioned_set(tmp_path / "set", [f"t{number}" for number in range(CAPTIONS)], per_caption=1)
    for name, processes in (("one", 1), ("two", 2)):
        settings = Miner(k=4, encoder="picture/pixels", range_rows=16, processes=processes)
        mine(table, tmp_path / name, settings, tmp_path / f"cache {name}")
    one, two = (open_neighbours(tmp_path / name).indices for name in ("one", "two"))
    assert np.array_equal(one, two)
