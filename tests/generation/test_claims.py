"""Claims: one owner at a time, and nobody waits for the dead."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lgrep.generation import claims
from lgrep.generation.claims import Claims


def hold(folder: Path, ready: Any) -> None:
    with Claims(folder).take("work") as mine:
        assert mine
        ready.set()
        time.sleep(60)


def test_a_claim_has_one_owner_and_is_given_back(tmp_path: Path) -> None:
    one, two = Claims(tmp_path), Claims(tmp_path)
    with one.take("a") as mine:
        assert mine
        with two.take("a") as also, two.take("b") as other:
            assert (also, other) == (False, True)
    with two.take("a") as now:
        assert now
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_on_this_machine_is_seen_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with Claims(tmp_path).take("work") as mine:
        assert not mine
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Claims(tmp_path).take("work") as mine:
        assert mine


@pytest.mark.parametrize("content", [{"machine": "another", "process": 1, "locks": True}, None])
def test_owners_elsewhere_count_as_dead_without_signs_of_life(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "work"
    path.write_text("" if content is None else json.dumps(content))
    seen = Claims(tmp_path, stale=0.15)
    with seen.take("work") as mine:
        assert not mine  # the first look cannot tell
    os.utime(path, ns=(0, 123))
    time.sleep(0.2)
    with seen.take("work") as mine:
        assert not mine  # it changed since: the owner lives, whatever its clock says
    time.sleep(0.2)
    with seen.take("work") as mine:
        assert mine


def test_a_living_owner_elsewhere_keeps_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Claims(tmp_path, beat=0.02).take("work") as mine:
        assert mine
        monkeypatch.setattr(claims, "machine", lambda: "another")
        seen = Claims(tmp_path, stale=0.2)
        for _ in range(4):
            with seen.take("work") as also:
                assert not also
            time.sleep(0.1)


def test_without_locks_only_signs_of_life_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_lock", lambda handle: False)
    with Claims(tmp_path, beat=0.02).take("work") as mine:
        assert mine and json.loads((tmp_path / "work").read_text())["locks"] is False
        seen = Claims(tmp_path, stale=0.15)
        for _ in range(3):
            with seen.take("work") as also:
                assert not also
            time.sleep(0.1)
