"""The script as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from inspect_pairs import main
from made import picture_folder

ROOT = Path(__file__).resolve().parents[1]


def test_any_data_and_pairing_make_a_page(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "pictures")
    script = [sys.executable, str(ROOT / "scripts" / "inspect_pairs.py")]
    data = ("data=folder", f"data.root={root}", "data.group=folder", "data.captions=sidecar", "pairing=siblings")
    options = ("pairing.pictures=3", "augment=simclr", "groups=2", "out=p/a.html")
    done = subprocess.run(
        [*script, *data, *options], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "p/a.html: 0." in done.stdout and "2 of 6 anchors" in done.stdout
    written = (tmp_path / "p" / "a.html").read_text(encoding="utf-8")
    assert "siblings" in written and "3 x simclr 48 px" in written and written.count("<img ") == 2 * (3 + 3)
    assert [path.name for path in tmp_path.iterdir() if path.name != "pictures"] == ["p"]  # no run folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["loader.wokers=3"], 2, "did you mean 'workers'"),
        (["grups=3"], 2, "grups: unknown setting"),
        (["groups=none"], 2, "groups: got 'none'"),
        (["duplicates=some"], 2, "duplicates"),
        (["data=folder", "data.root=nowhere"], 3, "nowhere"),
        (["pairing=neighbour", "pairing.table=nowhere"], 3, "nowhere is not there"),
    ],
)
def test_wrong_input(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed
    assert not list(tmp_path.iterdir())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "duplicates=sample" in shown and len(shown.splitlines()) <= 30


def test_every_view_of_a_method_with_two_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = picture_folder(tmp_path / "pictures", groups=2)
    arguments = ["data=folder", f"data.root={root}", "pairing=self", "method=simclr", "groups=3", "views=false"]
    assert main([*arguments, "duplicates=all"]) == 0
    written = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert written.count("<img ") == 3 and "0 of 6 pictures are copies" in written
