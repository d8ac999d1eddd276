"""Which process this is, with and without Lightning."""

from __future__ import annotations

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

from lgrep.data.notices import notice
from lgrep.ranks import rank


def test_lightning_knows_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(rank_zero_only, "rank", 2, raising=False)
    assert rank() == 2


@pytest.mark.parametrize(
    ("told", "expected"),
    [({}, 0), ({"RANK": "3", "LOCAL_RANK": "1"}, 3), ({"LOCAL_RANK": "1"}, 1), ({"SLURM_PROCID": "5"}, 5)],
)
def test_launchers_are_asked_without_lightning(
    told: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Lightning would answer, and what the first process says is not said again."""
    from lightning_fabric.utilities.rank_zero import _get_rank

    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delattr(rank_zero_only, "rank")
    assert rank() == expected == (_get_rank() or 0)
    notice("a remark")
    assert (capsys.readouterr().err == "note: a remark\n") == (expected == 0)
