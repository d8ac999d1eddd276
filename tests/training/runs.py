"""Tiny training runs for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from made import picture_folder
from programs import run_program

from lgrep.config.compose import compose_config
from lgrep.training.fit import train

# Acts like the entry point; `--kill-at N` ends the process with SIGKILL before step N begins.
SCRIPT = """
import os, signal, sys
from lgrep.cli import run
from lgrep.methods.base import Method
from lgrep.training.fit import train

arguments = sys.argv[1:]
if arguments and arguments[0] == "--kill-at":
    step = int(arguments[1])
    start = Method.on_train_batch_start
    def killing(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        start(self, batch, batch_idx)
    Method.on_train_batch_start = killing
    arguments = arguments[2:]
sys.exit(run("train", "", train, arguments))
"""


def overrides(root: Path, runs: Path, *more: str, pictures: bool = False) -> list[str]:
    """StableRep on a few made pictures, with every stateful callback on; 13 steps. `pictures`: draw them too."""
    if not root.exists():
        picture_folder(root, groups=12, per_group=3)
    periods = [f"callbacks.{name}.every_n_steps=4" for name in ("knn", "linear", "collapse")]
    return [
        *("method=stablerep", "pairing=siblings", "pairing.pictures=2", "augment=stablerep", "data=folder"),
        *(f"data.root={root}", "data.group=folder", "data.labels=folder", "data.probe_share=0.3"),
        *("method.projector_dims=[16,16,8]", "backbone.image_size=32", "optimizer.base_lr=0.05"),
        *("duration.steps=13", "schedule.warmup_steps=3", "loader.batch_size=5", "loader.workers=0"),
        *("trainer.accelerator=cpu", "trainer.devices=1", "trainer.log_every_n_steps=2", "trainer.threads=1"),
        *("checkpoint.every_n_steps=3", f"paths.runs={runs}", "name=tiny", *periods),
        *(() if pictures else ("callbacks.positives=null", "callbacks.plots=null")),
        *more,
    ]


def run(arguments: list[str]) -> dict[str, Any]:
    """Train in this process."""
    return train(*compose_config("train", arguments))


def start(arguments: list[str], kill_at: int | None = None, cold: bool = False) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, as the command line does. `cold`: in a fresh interpreter."""
    kill = [] if kill_at is None else ["--kill-at", str(kill_at)]
    command = [sys.executable, arguments[0], *kill, *arguments[1:]]
    if cold:
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return run_program(command)


def script(folder: Path) -> str:
    """The entry point as a file (Lightning starts further processes from it)."""
    path = folder / "train_tiny.py"
    path.write_text(SCRIPT)
    return str(path)


def only_run(runs: Path) -> Path:
    """The one run folder below `runs`."""
    folders = [path for path in runs.glob("*/*") if path.is_dir()]
    assert len(folders) == 1, folders
    return folders[0]


def state(runs: Path) -> dict[str, Any]:
    """The last checkpoint."""
    content: dict[str, Any] = torch.load(only_run(runs) / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def assert_equal(a: Any, b: Any, place: str = "") -> None:
    """Bit-equality of nested checkpoints."""
    assert type(a) is type(b), place
    if isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_equal(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{place}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), place
    else:
        assert a == b, (place, a, b)
