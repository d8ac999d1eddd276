"""Evaluators during training: the numbers of evaluate.py, and no trace in the run."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training.runs import assert_equal, only_run, overrides, run, script, start, state

from callbacks.tiny import Fit, ListLogger, TinyMethod
from lgrep.callbacks.evaluation import Evaluation
from lgrep.errors import ConfigError, DataError
from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.run import evaluate

SHADES = "evaluation.shades"


@pytest.fixture
def shades(tmp_path: Path) -> str:
    """The catalogue file of a made data set."""
    file = tmp_path / "shades.yaml"
    file.write_text(f"_target_: {SHADES}.Shades\n")
    return str(file)


def _callback(shades: str, *names: str, **settings: Any) -> Evaluation:
    nodes = {name.lower(): {"_target_": f"{SHADES}.{name}"} for name in names}
    return Evaluation([shades], list(nodes), nodes, every_n_steps=3, image_size=16, batch_size=5, **settings)


def _typed(shades: str) -> list[str]:
    return [
        "callbacks=[default,evaluation]",
        f"callbacks.evaluation.dataset=[{shades}]",
        "callbacks.evaluation.evaluators=[nearest]",
        f"+callbacks.evaluation.settings.nearest._target_={SHADES}.Nearest",
        "callbacks.evaluation.every_n_steps=4",
    ]


def _column(runs: Path, name: str) -> dict[int, float]:
    rows = csv.DictReader((only_run(runs) / "metrics.csv").open())
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


def test_numbers_are_those_of_the_checkpoint_and_training_is_the_same(tmp_path: Path, shades: str) -> None:
    alone, watched = tmp_path / "alone", tmp_path / "watched"
    run(overrides(tmp_path / "data", alone))
    run(overrides(tmp_path / "data", watched, *_typed(shades)))
    for part in ("state_dict", "optimizer_states"):
        assert_equal(state(alone)[part], state(watched)[part])
    column = _column(watched, "eval/shades/top1")
    assert len(column) == 4  # after steps 4, 8, 12 and the last, 13
    nodes = {"nearest": {"_target_": f"{SHADES}.Nearest"}}
    (record,) = evaluate([str(only_run(watched))], [shades], tmp_path / "out", baselines=False, evaluators=nodes)
    assert column[max(column)] == pytest.approx(record["values"]["top1"], abs=1e-6)
    assert _column(alone, "train/loss") == _column(watched, "train/loss")


@pytest.mark.ddp
def test_two_processes_log_the_same_and_end(tmp_path: Path) -> None:
    folder = tmp_path / "pictures.yaml"  # the processes can only import what is installed
    folder.write_text(f"_target_: lgrep.evaluation.datasets.folder.FolderSet\nroot: {tmp_path / 'data'}\n")
    typed = [
        *("callbacks=[default,evaluation]", f"callbacks.evaluation.dataset=[{folder}]"),
        *("+callbacks.evaluation.settings.knn.k=3", "+callbacks.evaluation.settings.knn.k_grid=[1]"),
        *("callbacks.evaluation.every_n_steps=3", "trainer.precision=64-true", "duration.steps=4"),
    ]
    columns = []
    for devices in (1, 2):
        runs = tmp_path / f"devices{devices}"
        arguments = overrides(tmp_path / "data", runs, *typed, f"trainer.devices={devices}")
        if devices == 1:
            run(arguments)
        else:
            done = start([script(tmp_path), *arguments])
            assert done.returncode == 0, done.stderr
        columns.append(_column(runs, "eval/pictures/knn"))
    assert len(columns[0]) == 2 and columns[0] == columns[1]


def test_modes_statistics_and_draws_are_left_alone(fit: Fit, shades: str) -> None:
    alone, watched = TinyMethod(), TinyMethod()
    fit([], steps=8, module=alone)
    expected = torch.get_rng_state()
    trainer = fit([_callback(shades, "Nearest", "Draws")], steps=8, module=watched)
    assert torch.equal(expected, torch.get_rng_state())
    assert_equal(dict(alone.state_dict()), dict(watched.state_dict()))
    assert all(part.training for part in watched.modules())
    logger = trainer.loggers[0]
    assert isinstance(logger, ListLogger)
    assert list(logger.column("eval/shades/top1")) == [2, 5, 7]
    assert len(set(logger.column("eval/shades/torch").values())) == 1  # the seed decides, not the step
    assert "eval/shades/top1" in trainer.callback_metrics


class Broken:
    """Its data went away."""

    name = "broken"

    def refusal(self, task: Task) -> str | None:
        return None

    def __call__(self, task: Task) -> Iterator[Score]:
        yield Score("broken", {}, {"top1": 0.25})
        raise DataError("a picture went away")


def test_failures_and_refusals_do_not_end_the_run(fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(f"_target_: {SHADES}.Shades\n")
    callback = _callback(str(plain), "Nearest", "Draws")
    callback.evaluators["broken"] = Broken()
    trainer = fit([callback], steps=7)
    logger = trainer.loggers[0]
    assert isinstance(logger, ListLogger)
    assert list(logger.column("eval/plain/top1")) == [2, 5, 6]
    assert list(logger.column("eval/plain/broken/top1").values()) == [0.25] * 3  # another evaluator's name is taken
    said = capsys.readouterr().out
    assert said.count("skipped: draws on plain: it has no colours") == 1
    assert said.count("failed: broken on plain at step") == 3


def test_wrong_settings_are_refused_before_training(fit: Fit, shades: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        Evaluation(["digit"])
    with pytest.raises(ConfigError, match="did you mean 'emoji'"):
        Evaluation(["digits"], ["emojy"])
    with pytest.raises(ConfigError, match="options"):
        Evaluation(["digits"], ["emoji"], options={"emoji": {}})
    without_size = Evaluation([shades], ["nearest"], {"nearest": {"_target_": f"{SHADES}.Nearest"}})
    with pytest.raises(ConfigError, match="image_size"):
        fit([without_size], steps=1)
    with pytest.raises(DataError, match="there is no folder"):
        fit([_callback(shades, "Nearest", options={shades: {"here": False}})], steps=1)
