"""TensorBoard and W&B show what metrics.csv holds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from training.runs import only_run, overrides, run, script, start

import lgrep
from lgrep.config.compose import compose_config
from lgrep.config.identity import identity
from lgrep.errors import ConfigError
from lgrep.loggers import TensorBoard, WandB
from lgrep.methods.base import Method
from loggers.conftest import leave_no_account
from loggers.readers import (
    csv_points,
    tensorboard_events,
    tensorboard_points,
    wandb_about,
    wandb_exit_code,
    wandb_folders,
    wandb_pictures,
    wandb_points,
    wandb_records,
)

PICTURES = {"positives": ("positives_step0", 0), "curves": ("curves", 13), "neighbours": ("neighbours", 13)}
SETTINGS = ("logger=all", "logger.wandb.group=pair", "logger.wandb.tags=[a,b]", "logger.wandb.notes=why")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an uninterrupted run with both trackers, and what it printed; run in an empty folder."""
    root = tmp_path_factory.mktemp("whole")
    for name in ("home", "elsewhere"):
        (root / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        leave_no_account(patch, root / "home")
        patch.setenv("PYTHONPATH", str(Path(lgrep.__file__).parents[1]))  # it may be a relative one
        patch.chdir(root / "elsewhere")
        done = start([script(root), *overrides(root / "data", root / "runs", *SETTINGS, pictures=True)])
    assert done.returncode == 0, done.stderr
    return only_run(root / "runs"), done.stdout + done.stderr


def test_same_names_steps_and_values(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    expected = csv_points(folder)
    assert {"train/loss", "train/lr", "probe/knn_top1", "collapse/features_rankme"} <= expected.keys()
    assert wandb_points(*wandb_folders(folder)) == expected
    single = {name: [(step, float(np.float32(value))) for step, value in found] for name, found in expected.items()}
    assert tensorboard_points(folder) == single


def test_pictures_are_those_of_the_run_folder(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    uploaded = wandb_pictures(*wandb_folders(folder))
    events = tensorboard_events(folder)
    assert uploaded.keys() == set(events.Tags()["images"]) == PICTURES.keys()
    for name, (file, step) in PICTURES.items():
        png = (folder / "plots" / f"{file}.png").read_bytes()
        assert uploaded[name] == (step, png)
        (event,) = events.Images(name)
        assert event.step == step
        shown, saved = (
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (event.encoded_image_string, png)
        )
        np.testing.assert_array_equal(shown, saved)


def test_wandb_knows_the_run_and_its_configuration(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    (offline,) = wandb_folders(folder)
    about = wandb_about(offline)
    assert (about.project, about.display_name, about.run_group) == ("lgrep", "tiny", "pair")
    assert (list(about.tags), about.notes) == (["a", "b"], "why")
    assert about.run_id == (folder / "wandb_id.txt").read_text().strip()
    config = {update.key: json.loads(update.value_json) for update in about.config.update}
    config.pop("_wandb", None)
    assert config == yaml.safe_load((folder / "config.yaml").read_text())
    assert wandb_exit_code(offline) == 0
    text = "".join(
        tensor.tensor_proto.string_val[0].decode()
        for tensor in tensorboard_events(folder).Tensors("config/text_summary")
    )
    assert (folder / "config.yaml").read_text() in text


def test_one_line_is_printed_and_no_file_is_written_elsewhere(whole: tuple[Path, str]) -> None:
    folder, printed = whole
    lines = [line for line in printed.splitlines() if "wandb" in line]
    assert lines == [
        "wandb: the run is kept offline (no API key: set WANDB_API_KEY or type wandb login). "
        f"To upload it: wandb sync {folder / 'wandb'}"
    ]
    assert not list((folder.parents[2] / "elsewhere").iterdir())
    assert not list(folder.rglob("*.py"))


def test_a_killed_run_goes_on_as_the_same_run(tmp_path: Path, whole: tuple[Path, str], no_account: Path) -> None:
    arguments = [
        script(tmp_path),
        *overrides(whole[0].parents[2] / "data", tmp_path / "runs", *SETTINGS, pictures=True),
    ]
    assert start(arguments, kill_at=8).returncode == -9
    done = start(arguments)
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "runs")
    assert (folder / "metrics.csv").read_bytes() == (whole[0] / "metrics.csv").read_bytes()
    assert tensorboard_points(folder) == tensorboard_points(whole[0])
    parts = [part for part in wandb_folders(folder) if wandb_records(part)]  # a kill may leave an empty one
    run_id = (folder / "wandb_id.txt").read_text().strip()
    assert {wandb_about(part).run_id for part in parts} == {run_id}
    assert all(part.name.endswith(run_id) for part in wandb_folders(folder))
    expected = csv_points(folder)
    assert wandb_points(parts[-1]) == expected  # steps before the state are repeated with their values
    for part in parts[:-1]:  # so redone steps come several times, as the same point
        assert all(set(found) <= set(expected[name]) for name, found in wandb_points(part).items())


def test_trackers_do_not_change_the_training(tmp_path: Path, whole: tuple[Path, str]) -> None:
    plain = run(overrides(whole[0].parents[2] / "data", tmp_path / "runs", pictures=True))
    folder = Path(plain["run_dir"])
    assert folder.name == whole[0].name  # the trackers are not part of the configuration's identity
    assert (folder / "metrics.csv").read_bytes() == (whole[0] / "metrics.csv").read_bytes()
    assert plain["weights_hash"] == json.loads((whole[0] / "summary.json").read_text())["weights_hash"]
    assert not (folder / "wandb").exists() and not (folder / "tensorboard").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_run_is_marked_as_failed(
    tmp_path: Path, no_account: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(self: Method, batch: object, batch_idx: int) -> None:
        if self.global_step == 4:
            raise error

    monkeypatch.setattr(Method, "on_train_batch_start", fail)
    with pytest.raises((error, SystemExit)):
        run(overrides(tmp_path / "data", tmp_path / "runs", "logger=all"))
    folder = only_run(tmp_path / "runs")
    assert wandb_exit_code(*wandb_folders(folder)) == 1
    expected = csv_points(folder)
    assert [step for step, _ in expected["train/loss"]] == [1, 3]
    assert wandb_points(*wandb_folders(folder)) == expected
    assert tensorboard_points(folder)["train/loss"] == [
        (step, float(np.float32(value))) for step, value in expected["train/loss"]
    ]


@pytest.mark.parametrize("broken", ["tensorboard", "wandb"])
def test_a_failing_tracker_is_switched_off_and_the_training_goes_on(
    tmp_path: Path,
    whole: tuple[Path, str],
    no_account: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if broken == "tensorboard":
        from tensorboard.summary.writer.record_writer import RecordWriter

        write = RecordWriter.write
        written: list[bytes] = []

        def fills_up(self: Any, data: bytes) -> None:
            written.append(data)
            full() if len(written) > 12 else write(self, data)

        monkeypatch.setattr(RecordWriter, "write", fills_up)
    else:
        import wandb

        monkeypatch.setattr(wandb.Run, "log", full)
    summary = run(overrides(whole[0].parents[2] / "data", tmp_path / "runs", "logger=all", pictures=True))
    folder = Path(summary["run_dir"])
    assert summary["finished"]
    assert (folder / "metrics.csv").read_bytes() == (whole[0] / "metrics.csv").read_bytes()
    out, err = capfd.readouterr()
    line = f"{broken}: OSError: [Errno 28] No space left on device. It is off for the rest of this run; the training goes on"
    assert [text.strip() for text in out.splitlines() if "Errno 28" in text] == [line]
    assert "Traceback" not in err
    if broken == "wandb":
        assert wandb_exit_code(*wandb_folders(folder)) == 1
        assert tensorboard_points(folder) == tensorboard_points(whole[0])
    else:
        assert wandb_points(*wandb_folders(folder)) == csv_points(folder)


@pytest.mark.ddp
def test_several_processes_make_one_run(tmp_path: Path, no_account: Path) -> None:
    settings = ("logger=all", "trainer.devices=2", "duration.steps=4")
    arguments = overrides(tmp_path / "data", tmp_path / "runs", *settings, pictures=True)
    done = start([script(tmp_path), *arguments])
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "runs")
    assert wandb_points(*wandb_folders(folder)) == csv_points(folder)
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert done.stdout.count("wandb: the run is kept offline") == 1


def test_trackers_are_chosen_by_the_logger_group(tmp_path: Path) -> None:
    chosen = {}
    for choice in ("none", "tensorboard", "wandb", "all", "[wandb,tensorboard]"):
        values, _ = compose_config("train", overrides(tmp_path / "data", tmp_path, f"logger={choice}"))
        chosen[choice] = set(values["logger"])
        assert identity(values) == identity({**values, "logger": {}})
    both = {"tensorboard", "wandb"}
    assert chosen == {
        "none": set(),
        "tensorboard": {"tensorboard"},
        "wandb": {"wandb"},
        "all": both,
        "[wandb,tensorboard]": both,
    }


@pytest.mark.parametrize("tracker", [TensorBoard, WandB])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: type[TensorBoard | WandB]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"'{tracker.package}'.*pip install 'lgrep\[trackers\]'"):
        tracker(str(tmp_path))
