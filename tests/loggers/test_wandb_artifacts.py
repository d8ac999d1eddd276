"""What W&B stores of a finished run besides metrics, and which runs it shows together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lgrep.config.compose import compose_config
from lgrep.config.identity import identity
from lgrep.config.spec import validate_spec
from lgrep.errors import ConfigError
from lgrep.loggers.wandb import speed_totals
from loggers.readers import wandb_about, wandb_exit_code, wandb_folders, wandb_points, wandb_records

SPEED = "step,seconds,pictures,pictures_per_second,data_wait,peak_memory_bytes\n2,1.0,10,10,0.5,7\n4,3.0,50,16.7,0.1,2000000000\n"


def stored(folder: Path) -> dict[str, dict[str, Path]]:
    """Artifact name -> name in it -> file that will be uploaded."""
    found = {}
    for record in wandb_records(folder):
        if record.HasField("artifact"):
            entries = record.artifact.manifest.contents
            found[record.artifact.name] = {entry.path: Path(entry.local_path) for entry in entries}
    return found


def filled(folder: Path) -> None:
    for name in ("checkpoints/step-00000004.ckpt", "checkpoints/last.ckpt", "plots/curves.png", "table/indices.arrow"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "speed.csv").write_text(SPEED)


def test_files_of_a_finished_run_are_stored_where_they_lie(
    logger_of: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "the sweep")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    logger = logger_of(artifacts=["checkpoint", "neighbours", "sheets"])
    run = logger.run_dir
    filled(run)
    pairing = SimpleNamespace(table=str(run / "table"))
    logger.log_graph(SimpleNamespace(_trainer=SimpleNamespace(datamodule=SimpleNamespace(pairing=pairing))))
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    (folder,) = wandb_folders(run)
    run_id = (run / "wandb_id.txt").read_text().strip()
    assert stored(folder) == {
        f"checkpoint-{run_id}": {"last.ckpt": run / "checkpoints" / "last.ckpt"},
        f"neighbours-{run_id}": {"indices.arrow": run / "table" / "indices.arrow"},
        f"sheets-{run_id}": {"curves.png": run / "plots" / "curves.png"},
    }
    assert wandb_about(folder).run_group == "the sweep"
    assert wandb_exit_code(folder) == 0
    assert wandb_points(folder) == {"loss": [(0, 1.0)]}  # throughput is in the summary, not among the metrics
    summaries = [u.key for r in wandb_records(folder) if r.HasField("summary") for u in r.summary.update]
    assert "speed/pictures_per_second" in summaries
    assert "not stored" not in capfd.readouterr().out


def test_what_is_missing_or_fails_does_not_fail_the_run(
    logger_of: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = logger_of(artifacts=["checkpoint", "neighbours"])
    filled(logger.run_dir)
    logger.log_metrics({"loss": 1.0}, 0)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wandb.Artifact.add_file", full)
    logger.finalize("success")
    (folder,) = wandb_folders(logger.run_dir)
    assert wandb_exit_code(folder) == 0 and stored(folder) == {}
    out = capfd.readouterr().out
    assert "wandb: the artifact checkpoint is not stored: OSError: [Errno 28]" in out
    assert "wandb: no artifact neighbours: this run has none" in out


def test_throughput_of_a_whole_run(tmp_path: Path) -> None:
    (tmp_path / "speed.csv").write_text(SPEED + "6,1.0,")  # cut by a kill
    assert speed_totals(tmp_path / "speed.csv") == pytest.approx(
        {"speed/pictures_per_second": 15.0, "speed/data_wait": 0.2, "speed/peak_memory_gb": 2.0}
    )
    assert speed_totals(tmp_path / "missing.csv") == {}


def test_artifacts_are_an_option_that_changes_no_run() -> None:
    plain, _ = compose_config("train", ["logger=wandb"])
    asked, _ = compose_config("train", ["logger=wandb", "logger.wandb.artifacts=[checkpoint,sheets]"])
    assert asked["logger"]["wandb"]["artifacts"] == ["checkpoint", "sheets"]
    assert identity(plain) == identity(asked)
    with pytest.raises(ConfigError, match=r"artifacts.*'checkpoint', 'neighbours' or 'sheets'"):
        validate_spec({**asked["logger"]["wandb"], "artifacts": ["weights"]}, "logger.wandb", ("run_dir",))
