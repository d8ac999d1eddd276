"""Clock arithmetic, speed.csv and the progress lines (no real times are asserted)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import pytorch_lightning as pl
from rich.console import Console

from callbacks.tiny import ANCHORS, VIEWS, Fit, TinyData, TinyMethod
from lgrep.callbacks import OnlineKNN, ProgressBar, Throughput
from lgrep.callbacks import progress as progress_module
from lgrep.callbacks.clock import Reading, StepClock
from lgrep.callbacks.progress import describe


class Times:
    """A clock that is set by hand."""

    value = 100.0

    def __call__(self) -> float:
        return self.value


def test_clock_tells_waiting_from_working() -> None:
    now = Times()
    clock = StepClock(window=2, now=now)
    for wait, work in ((1.0, 3.0), (2.0, 4.0)):
        clock.fetch_began()
        now.value += wait
        clock.fetch_ended()
        now.value += work
        clock.count(50)
    reading = clock.read()
    assert reading == Reading(seconds=10.0, batches=2, pictures=100, waited=3.0)
    assert reading.pictures_per_second == 10.0 and reading.data_wait == pytest.approx(0.3)
    assert Reading().pictures_per_second == 0.0 and Reading().data_wait == 0.0


def test_recent_forgets_what_left_the_window() -> None:
    now = Times()
    clock = StepClock(window=2, now=now)
    for seconds in (100.0, 1.0, 1.0, 1.0):
        now.value += seconds
        clock.count(7)
        recent = clock.recent()
    assert recent == Reading(seconds=2.0, batches=2, pictures=14, waited=0.0)


def test_clock_hears_every_fetch_of_lightning(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(StepClock, "fetch_began", lambda self: heard.append("began"))
    monkeypatch.setattr(StepClock, "fetch_ended", lambda self: heard.append("ended"))
    fit([ProgressBar(style="plain")], steps=6)
    assert heard == ["began", "ended"] * 6


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_speed_file_and_summary(fit: Fit, tmp_path: Path) -> None:
    callback = Throughput(str(tmp_path / "run"), every_n_steps=4)
    assert callback.summary() == {}
    trainer = fit([callback], steps=10)
    table = rows(tmp_path / "run" / "speed.csv")
    assert [row["step"] for row in table] == ["4", "8", "10"]
    assert [int(row["pictures"]) for row in table] == [4 * ANCHORS * VIEWS, 4 * ANCHORS * VIEWS, 2 * ANCHORS * VIEWS]
    summary = callback.summary()
    assert summary["pictures_seen"] == 10 * ANCHORS * VIEWS
    assert summary["pictures_per_second"] > 0 and 0 <= summary["data_wait"] <= 1
    assert summary["peak_memory_bytes"] > 10 * 2**20
    logged = {name for _, row in trainer.loggers[0].rows for name in row}  # type: ignore[union-attr]
    assert logged == {"train/loss", "epoch"}  # times never reach the metrics


def test_speed_file_goes_on_after_a_resume(fit: Fit, tmp_path: Path) -> None:
    part = fit([Throughput(str(tmp_path), 4)], steps=10, limit_train_batches=5, max_epochs=1)
    part.save_checkpoint(tmp_path / "part.ckpt")
    with (tmp_path / "speed.csv").open("a", newline="") as file:
        file.write("8,1.0,1,1.0,0.0,1\r\n9,1.")  # rows after the checkpoint, the last one cut by a kill
    callback = Throughput(str(tmp_path), 4)
    fit([callback], steps=10, checkpoint=tmp_path / "part.ckpt")
    assert [row["step"] for row in rows(tmp_path / "speed.csv")] == ["4", "5", "8", "10"]
    assert callback.summary()["pictures_seen"] == 10 * ANCHORS * VIEWS


def test_status_line() -> None:
    speed = Reading(seconds=2.0, batches=100, pictures=3000, waited=0.5)
    parts = describe(600, 1500, 4.25, speed, probes={"probe/knn_top1": 0.5}, replaced=2)
    assert "  ".join(parts) == (
        "step   600/1,500  loss 4.250  1,500 pictures/s  data wait 25 %  ETA 0:00:18"
        "  knn_top1 0.500  2 pictures replaced"
    )
    assert describe(1, None, 1.0, Reading())[0] == "step 1"
    assert describe(0, 10, 1.0, Reading(100.0, 10, 1, 0), accumulate=400)[-1] == "ETA 11:06:40"


def test_plain_lines(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    data = TinyData(batches=60)
    data.replaced_count = 3
    fit([OnlineKNN(10), ProgressBar(style="plain", min_seconds=1e-9)], steps=50, data=data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert [line.split("  loss")[0].split()[-1] for line in lines] == ["1/50", "20/50", "40/50", "50/50"]
    assert "ETA 0:00:00" in lines[-1] and "knn_top1 " in lines[-1] and "3 pictures replaced" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_plain_lines_keep_their_distance(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit([ProgressBar(style="plain", min_seconds=3600.0)], steps=45, data=TinyData(batches=60))
    assert capsys.readouterr().out.count("loss") == 2  # the first step and the last


def test_rich_bar(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    original = progress_module.Progress

    def on_screen(*columns: object, **options: object) -> object:
        console = Console(file=screen, force_terminal=True, width=140)
        return original(*columns, console=console, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(progress_module, "Progress", on_screen)
    bar = ProgressBar(style="rich")
    fit([bar], steps=25)
    assert "25/25" in screen.getvalue() and "pictures/s" in screen.getvalue()
    assert bar._live is None


class BrokenMethod(TinyMethod):
    def training_step(self, *args: object) -> dict[str, object]:  # type: ignore[override]
        raise ValueError("broken")


def test_rich_bar_is_closed_after_an_error(fit: Fit) -> None:
    bar = ProgressBar(style="rich")
    with pytest.raises(ValueError, match="broken"):
        fit([bar], module=BrokenMethod())
    assert bar._live is None


def test_disabled_bar_is_silent(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(style="plain")
    bar.disable()
    fit([bar], steps=3)
    assert "loss" not in capsys.readouterr().out
    assert isinstance(bar, pl.callbacks.ProgressBar)
