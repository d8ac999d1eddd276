"""The skeleton of a method trains as it stands, here or in a folder of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import new_method
import pytest
from training.runs import overrides, run


def test_a_new_method_in_a_folder_of_its_own_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new_method.main(["my_method", "--into", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    search = next(word for word in said.split() if word.startswith("'hydra.searchpath")).strip("'")
    arguments = overrides(tmp_path / "data", tmp_path / "runs", "method=my_method", "duration.steps=3", search)
    arguments = [argument for argument in arguments if argument not in ("method=stablerep", "schedule.warmup_steps=3")]
    summary = run([*arguments, "schedule.warmup_steps=1"])
    assert summary["finished"] and summary["choices"]["method"] == "my_method"
    sys.modules.pop("my_method", None)


@pytest.mark.parametrize("name", ["My", "class", "a-b", "1x", "simclr"])
def test_names_that_cannot_be(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        new_method.main([name])
    assert name in capsys.readouterr().err
