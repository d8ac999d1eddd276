"""When the pictures of the online probes are decoded, and what happens when they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from training.ranks import quick
from training.runs import only_run, overrides, run

from lgrep.data.sources import FolderSource
from lgrep.errors import DataError

PROBES = ("knn", "linear", "plots")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A run on a folder whose held-out pictures are all broken, without its probes."""
    more = ("duration.steps=2", "schedule.warmup_steps=1", "callbacks.collapse=null")
    given = overrides(tmp_path / "data", tmp_path / "runs", *more, pictures=True)
    tables = FolderSource(str(tmp_path / "data"), group="folder", labels="folder", probe_share=0.3).probe()
    assert tables is not None
    for row in range(len(tables.queries)):
        (tmp_path / "data" / str(tables.queries.column("id")[row])).write_bytes(b"no picture")
    return [word for word in given if word.split("=")[0].split(".")[:2] not in [["callbacks", name] for name in PROBES]]


@pytest.mark.parametrize("probe", PROBES)
def test_unreadable_ones_end_a_run_before_its_first_step(probe: str, arguments: list[str], tmp_path: Path) -> None:
    others = [f"callbacks.{name}=null" for name in PROBES if name != probe]
    with pytest.raises(DataError, match="none of the .* pictures for the online probes can be read"):
        run([*arguments, *others])
    folder = only_run(tmp_path / "runs")
    assert not (folder / "metrics.csv").exists() and not list((folder / "checkpoints").iterdir())


def test_they_are_not_decoded_where_nothing_probes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(quick(arguments))["finished"]
    assert "probe pictures" not in capsys.readouterr().err
