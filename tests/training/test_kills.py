"""Kill -9 at random moments: what comes out is what an uninterrupted run gives, to the bit."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from programs import Program

from lgrep.checkpoints.seal import damage
from training.ranks import quick
from training.runs import assert_equal, only_run, overrides, run, script, state

MOMENTS = 20
SETTINGS = ("duration.steps=40", "checkpoint.every_n_steps=2", "checkpoint.keep=3", "trainer.log_every_n_steps=1")


@pytest.mark.slow
def test_killed_at_random_moments_equals_uninterrupted(tmp_path: Path) -> None:
    """Starting, loading, stepping, saving, ending: wherever the moment falls."""
    whole = tmp_path / "whole"
    arguments = quick(overrides(tmp_path / "data", whole, *SETTINGS))
    assert run(arguments)["finished"]
    entry, rng, kills, finished = script(tmp_path), np.random.default_rng(), 0, 0
    longest = 0.0
    while kills < MOMENTS or not finished:
        runs = tmp_path / f"killed{finished}"
        command = [sys.executable, entry, *arguments, f"paths.runs={runs}"]
        begun = time.monotonic()
        with Program(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(timeout=rng.uniform(0.1, longest or 20) if kills < MOMENTS else 300)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.returncode == -9:
            kills += 1
            for path in runs.glob("*/*/checkpoints/*.ckpt"):
                assert damage(path) is None
            continue
        assert process.returncode == 0
        longest = longest or time.monotonic() - begun
        finished += 1
        assert_equal(state(runs), state(whole))
        assert (only_run(runs) / "metrics.csv").read_bytes() == (only_run(whole) / "metrics.csv").read_bytes()
