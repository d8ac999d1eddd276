"""W&B never asks and never waits: keys, modes, and servers that do not answer."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lgrep.loggers.wandb import find_key
from loggers.readers import wandb_about, wandb_folders, wandb_points

KEY = "0123456789" * 4


class Settings(BaseModel):
    base_url: str = "https://public.example"
    api_key: str | None = None


def test_keys_come_from_the_environment_the_settings_or_netrc(
    no_account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_key(Settings()) is None
    logins = no_account / ".netrc"
    logins.write_text(
        f"machine other.example login user password wrong\nmachine api.wandb.ai login user password {KEY}\n"
    )
    assert find_key(Settings()) == KEY  # the public server
    assert find_key(Settings(base_url="https://own.example")) is None  # a key is not shown to another server
    assert find_key(Settings(base_url="https://other.example")) == "wrong"
    assert find_key(Settings(api_key="settings")) == "settings"
    logins.write_text("machine api.wandb.ai password\n")
    assert find_key(Settings()) is None
    monkeypatch.setenv("NETRC", str(no_account / "missing"))
    assert find_key(Settings()) is None
    monkeypatch.setenv("WANDB_API_KEY", "environment")
    assert find_key(Settings(api_key="settings")) == "environment"


@pytest.mark.parametrize("by", ["setting", "environment"])
def test_disabled_does_nothing(logger_of: Any, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = logger_of(mode="disabled" if by == "setting" else "auto")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.experiment.log({"mine": 1})  # calls of the user are ignored too
    logger.finalize("success")
    assert [path.name for path in logger.run_dir.iterdir()] == ["config.yaml"]


def test_offline_by_the_environment_although_there_is_a_key(
    logger_of: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    logger = logger_of()
    logger.log_metrics({"loss": 1.5, "epoch": 0}, 7)
    logger.finalize("success")
    logger.log_metrics({"loss": 2.5}, 8)  # after the end: nothing
    (folder,) = wandb_folders(logger.run_dir)
    assert wandb_points(folder) == {"loss": [(7, 1.5)]}
    assert wandb_about(folder).display_name == "named"
    out, err = capfd.readouterr()
    assert (out.strip(), err) == (
        f"wandb: the run is kept offline. To upload it: wandb sync {logger.run_dir / 'wandb'}",
        "",
    )


@pytest.mark.parametrize("server", ["refuses", "is silent"])
def test_a_server_that_does_not_answer_does_not_hold_up_the_run(
    logger_of: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], server: str
) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if server == "is silent":
            listening.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        logger = logger_of(start_timeout=1.0, end_timeout=1.0)
        logger.log_metrics({"loss": 1.5}, 7)
        logger.finalize("success")
    (offline,) = (folder for folder in wandb_folders(logger.run_dir) if folder.name.startswith("offline"))
    assert wandb_points(offline) == {"loss": [(7, 1.5)]}
    out, err = capfd.readouterr()
    assert out.startswith("wandb: the run is kept offline (CommError: ")
    assert len(out.splitlines()) == 1 and not err


def test_the_id_is_kept_in_the_run_folder_and_a_bad_one_replaced(
    logger_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = logger_of(), logger_of()
    assert first._run_id() == second._run_id()
    (first.run_dir / "wandb_id.txt").write_text("not/an id\n")
    replaced = first._run_id()
    assert replaced.isalnum() and second._run_id() == replaced
    (first.run_dir / "wandb_id.txt").unlink()
    monkeypatch.setenv("WANDB_RUN_ID", "given")  # e.g. by an agent of W&B
    assert first._run_id() == "given"
