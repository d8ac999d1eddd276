from __future__ import annotations

import os
from pathlib import Path

import pytest

from lgrep.errors import ConfigError
from lgrep.training.folder import CHOSEN, RunFolder, identity

VALUES = {
    "seed": 0,
    "name": "a",
    "loader": {"batch_size": 8, "workers": 1},
    "trainer": {"devices": 1},
    "resume": "auto",
}


def test_only_settings_that_change_what_is_computed_name_the_folder() -> None:
    same = [
        {**VALUES, "name": "b"},
        {**VALUES, "resume": "never"},
        {**VALUES, "loader": {"batch_size": 8, "workers": 4}},
    ]
    assert {identity(values) for values in [VALUES, *same]} == {identity(VALUES)}
    other = [{**VALUES, "seed": 1}, {**VALUES, "loader": {"batch_size": 9}}, {**VALUES, "trainer": {"devices": 2}}]
    assert len({identity(values) for values in [VALUES, *other]}) == 4


def test_a_fresh_folder_is_chosen_once_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHOSEN, raising=False)
    first = RunFolder.of(str(tmp_path), "a", VALUES)
    first.create({})
    with pytest.raises(ConfigError, match="started by Lightning"):
        RunFolder.of(str(tmp_path), "a", VALUES, fresh=True, rank=1)
    second = RunFolder.of(str(tmp_path), "a", VALUES, fresh=True)
    second.create({})
    assert second.path == first.path.with_name(first.path.name + "-2")
    assert RunFolder.of(str(tmp_path), "a", VALUES, fresh=True, rank=1).path == second.path
    assert RunFolder.of(str(tmp_path), "a", VALUES, fresh=True).path.name.endswith("-3")
    assert RunFolder.of(str(tmp_path), "a", VALUES).path == first.path
    monkeypatch.delitem(os.environ, CHOSEN)


def test_an_unreadable_checkpoint_is_passed_over_with_a_reason(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create({})
    assert folder.latest_checkpoint() == (None, [])
    (folder.checkpoints / "step-00000001.ckpt").write_bytes(b"")
    path, problems = folder.latest_checkpoint()
    assert path is None
    assert "step-00000001.ckpt is damaged" in problems[0]
