"""W&B without an account: no key, no settings of the user, nothing left of one test in the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lgrep.loggers import WandB


def leave_no_account(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        patch.delenv(name)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        patch.setenv(name, str(home))


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without a key; W&B's process ends with the test."""
    import wandb

    home = tmp_path / "home"
    home.mkdir()
    leave_no_account(monkeypatch, home)
    yield home
    wandb.teardown()


@pytest.fixture
def logger_of(tmp_path: Path, no_account: Path) -> Any:
    """Makes the logger of a run folder that has a configuration."""
    folder = tmp_path / "runs" / "named" / "01234567"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 3\noptimizer:\n  base_lr: 0.1\n")
    return lambda **settings: WandB(str(folder), **settings)
