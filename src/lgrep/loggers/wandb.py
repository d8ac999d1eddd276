"""Weights & Biases."""

from __future__ import annotations

import contextlib
import netrc
import os
import re
import secrets
import shlex
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from omegaconf import OmegaConf
from pydantic import PositiveFloat

from lgrep.files import write_text
from lgrep.loggers.metrics_file import read_rows
from lgrep.loggers.tracker import Tracker, first_line

STEP = "trainer/global_step"  # x-axis of every chart; the name that Lightning's own logger uses
REPEATED = 100  # rows logged again after a kill; more than W&B keeps in memory for its 15 seconds
Artifacts = Literal["checkpoint", "neighbours", "sheets"]
_TYPES = {"checkpoint": "model", "neighbours": "dataset", "sheets": "sheets"}
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


class WandB(Tracker):
    """A run at Weights & Biases, or below the run folder until it is uploaded.

    Never asks and never waits for long: without a key, or when the server does not answer within
    `start_timeout`, the run is kept offline and a line says how to upload it. Nothing is printed otherwise,
    no code is saved, and no error reports are sent (`WANDB_ERROR_REPORTING` overrides that).

    The run's id is in `wandb_id.txt` of the run folder, so a resumed training continues the same run. The
    x-axis of all charts is `trainer/global_step`, the column `step` of `metrics.csv`.

    Args:
        run_dir: folder of the run.
        project: project; null: `WANDB_PROJECT`, else lgrep.
        entity: user or team; null: `WANDB_ENTITY`, else the account's default.
        name: shown name; null: the name of the run.
        group: runs that belong together; null: `WANDB_RUN_GROUP`, which a sweep sets to its own name.
        tags: labels of the run.
        notes: a longer description.
        mode: `auto` is online when an API key is found (`WANDB_API_KEY`, `WANDB_IDENTITY_TOKEN_FILE` or what
            `wandb login` stored), else offline; `WANDB_MODE` decides before that.
        start_timeout: seconds to wait for the server at the start before the run is kept offline.
        end_timeout: seconds to wait at the end for what is not uploaded yet.
        artifacts: what a finished run stores as versioned files: its `checkpoint` (the last, and the best if there is
            one), the `neighbours` table that it was trained with, its `sheets` (plots). Offline they are uploaded by
            `wandb sync`, from where they lie.
    """

    package = "wandb"

    def __init__(
        self,
        run_dir: str,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        start_timeout: PositiveFloat = 20.0,
        end_timeout: PositiveFloat = 60.0,
        artifacts: list[Artifacts] | None = None,
    ) -> None:
        super().__init__(run_dir)
        self.artifacts = list(artifacts or [])
        self._pairing: Any = None
        self.mode = mode
        self.start_timeout = start_timeout
        self.end_timeout = end_timeout
        self._about: dict[str, Any] = {
            "project": project or os.environ.get("WANDB_PROJECT", "lgrep"),
            "entity": entity,
            "name": name or self.run_dir.parent.name,
            "group": group or os.environ.get("WANDB_RUN_GROUP"),
            "tags": tags,
            "notes": notes,
        }

    def open(self) -> Any:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its reports hold up the end without a network
        import wandb

        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        mode = self.mode if self.mode != "auto" else _MODES.get(os.environ.get("WANDB_MODE", ""), "auto")
        if mode == "disabled":
            return None
        reason = ""
        if mode != "offline":
            key = find_key(settings)
            if key is None:
                reason = " (no API key: set WANDB_API_KEY or type wandb login)"
            else:
                try:
                    return self._start("online", key)
                except Exception as error:
                    wandb.teardown(exit_code=1)  # its service holds the run's id until it ends
                    wandb.setup(settings=wandb.Settings(silent=True))
                    reason = f" ({first_line(error)})"
        run = self._start("offline")
        print(f"wandb: the run is kept offline{reason}. To upload it: wandb sync {self._files}", flush=True)
        return run

    def _start(self, mode: Literal["online", "offline"], key: str = "") -> Any:
        import wandb

        settings: dict[str, Any] = {
            "silent": True,
            "console": "off",
            "disable_code": True,
            "init_timeout": self.start_timeout,
            "finish_timeout": self.end_timeout,
            "finish_timeout_raises": True,
        }
        if key:
            settings["api_key"] = key  # a given key is never asked for
        run = wandb.init(
            **self._about,
            id=self._run_id(),
            resume="allow",
            config=self._config(),
            allow_val_change=True,
            dir=str(self.run_dir),
            mode=mode,
            save_code=False,
            settings=wandb.Settings(**settings),
        )
        # W&B drops rows whose own step goes back, as it does after a kill; so that step only counts rows
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        if mode == "online":
            print(f"wandb: {run.url}", flush=True)
        self._repeat_rows(run)
        return run

    def _repeat_rows(self, run: Any) -> None:
        """Log the rows before a resumed step again: W&B loses its last seconds when a run is killed."""
        path = self.run_dir / "metrics.csv"
        if self.resumed == 0 or not path.is_file():
            return
        for row in read_rows(path)[1][-REPEATED:]:
            values = {name: float(cell) for name, cell in row.items() if cell and name != "step"}
            run.log({**values, STEP: int(row["step"])})

    def write_metrics(self, values: dict[str, float], step: int) -> None:
        self._opened.log({**values, STEP: step})

    def write_picture(self, name: str, path: Path, step: int) -> None:
        import wandb

        self._opened.log({name: wandb.Image(str(path)), STEP: step})

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Lightning shows the module before the training starts; its data know the neighbour table."""
        data = getattr(getattr(model, "_trainer", None), "datamodule", None)
        self._pairing = getattr(data, "pairing", None)

    def close(self, success: bool) -> None:
        if success:
            for kind in self.artifacts:
                try:
                    self._store(kind)
                except Exception as error:  # the run itself is complete without it
                    print(f"wandb: the artifact {kind} is not stored: {first_line(error)}", flush=True)
            with contextlib.suppress(OSError):
                self._opened.summary.update(speed_totals(self.run_dir / "speed.csv"))
        try:
            self._opened.finish(exit_code=0 if success else 1)
        except TimeoutError:
            print(
                f"wandb: not all is uploaded after {self.end_timeout:g} s (logger.wandb.end_timeout). "
                f"To upload the rest: wandb sync --include-online {self._files}",
                flush=True,
            )

    def _store(self, kind: Artifacts) -> None:
        """Hand files over as an artifact, without copying them."""
        import wandb

        files = self._files_of(kind)
        if not files:
            print(f"wandb: no artifact {kind}: this run has none", flush=True)
            return
        os.environ.setdefault("WANDB_DATA_DIR", str(self.run_dir / "wandb"))  # its notes on them stay here, too
        artifact = wandb.Artifact(f"{kind}-{self._run_id()}", type=_TYPES[kind])
        for path in files:
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        self._opened.log_artifact(artifact)

    def _files_of(self, kind: Artifacts) -> list[Path]:
        if kind == "checkpoint":
            found = [self.run_dir / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
        elif kind == "sheets":
            found = sorted((self.run_dir / "plots").glob("*.png"))
        else:
            table = getattr(self._pairing, "table", None)
            found = sorted(Path(table).iterdir()) if table and Path(table).is_dir() else []
        return [path for path in found if path.is_file()]

    @property
    def _files(self) -> str:
        return shlex.quote(str(self.run_dir / "wandb"))

    def _run_id(self) -> str:
        path = self.run_dir / "wandb_id.txt"
        stored = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if not re.fullmatch(r"[\w-]{1,64}", stored):
            stored = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(6)
            write_text(path, stored + "\n")
        return stored

    def _config(self) -> Any:
        return OmegaConf.to_container(OmegaConf.load(self.run_dir / "config.yaml"))


def speed_totals(path: Path) -> dict[str, float]:
    """Throughput of a whole run, for W&B's summary; times are not part of the metrics, which equal runs share.

    Args:
        path: `speed.csv`.

    Returns:
        `speed/pictures_per_second`, `speed/data_wait` (0 to 1) and `speed/peak_memory_gb`; empty without a row.
    """
    if not path.is_file():
        return {}
    rows = read_rows(path)[1]
    seconds = sum(float(row["seconds"]) for row in rows)
    if not seconds:
        return {}
    return {
        "speed/pictures_per_second": sum(int(row["pictures"]) for row in rows) / seconds,
        "speed/data_wait": sum(float(row["data_wait"]) * float(row["seconds"]) for row in rows) / seconds,
        "speed/peak_memory_gb": max(int(row["peak_memory_bytes"]) for row in rows) / 1e9,
    }


def find_key(settings: Any) -> str | None:
    """The API key that W&B would use, found without asking anybody; None if there is none.

    Args:
        settings: W&B's settings of this process (from its files and the environment).

    Returns:
        The key; empty when W&B itself reads a token from `WANDB_IDENTITY_TOKEN_FILE`.
    """
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return ""
    key = os.environ.get("WANDB_API_KEY") or getattr(settings, "api_key", None)
    if key:
        return str(key)
    hosts = [urlsplit(settings.base_url).netloc]
    if settings.base_url == type(settings).model_fields["base_url"].default:
        hosts.append("api.wandb.ai")  # the public server under its older name
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in (Path(path).expanduser() for path in paths):
        try:
            logins = netrc.netrc(path)
        except (OSError, netrc.NetrcParseError):
            continue
        for host in hosts:
            login = logins.hosts.get(host)
            if login and login[2]:
                return login[2]
    return None
