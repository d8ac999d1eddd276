"""Contact sheet, neighbour sheet and curves are written and show what they should."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.tiny import MEAN, STD, Fit, TinyData, class_pictures
from lgrep.callbacks import ContactSheet, RunPlots
from lgrep.callbacks.curves import draw_curves, read_metrics
from lgrep.callbacks.run_plots import one_per_class
from lgrep.callbacks.sheets import GREEN, RED, Cell, Row, _font, as_uint8, draw_sheet, printable, wrap
from lgrep.callbacks.sheets import fit as fit_text


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_contact_sheet_before_training(fit: Fit, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # e.g. missing glyphs
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer = fit([ContactSheet(str(tmp_path), groups=4)], steps=1)
    path = tmp_path / "plots" / "positives_step0.png"
    pixels = opened(path)
    assert min(pixels.shape[:2]) > 400
    reds = (pixels[..., 0] > 150) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)
    assert reds.sum() > 1000  # the pictures come out in their colours again
    assert trainer.loggers[0].pictures == [("positives", path, 0)]  # type: ignore[union-attr]


def test_contact_sheet_after_a_resume(fit: Fit, tmp_path: Path) -> None:
    part = fit([ContactSheet(str(tmp_path))], steps=4, limit_train_batches=2, max_epochs=1)
    part.save_checkpoint(tmp_path / "part.ckpt")
    path = tmp_path / "plots" / "positives_step0.png"
    path.write_bytes(b"kept")
    fit([ContactSheet(str(tmp_path))], steps=4, checkpoint=tmp_path / "part.ckpt")
    assert path.read_bytes() == b"kept"
    path.unlink()
    fit([ContactSheet(str(tmp_path))], steps=4, checkpoint=tmp_path / "part.ckpt")
    assert opened(path).size


def test_normalisation_is_undone() -> None:
    pictures = class_pictures(torch.arange(3), 0)
    restored = as_uint8((pictures.float() / 255 - MEAN) / STD, -MEAN / STD, (1 - MEAN) / STD)
    assert torch.equal(restored, pictures)


@pytest.mark.parametrize(
    "text", ["", "\ud83d\udc00", "a\x00b\n\tc", "$x^", "日本語 " * 90, "w" * 5000, "\u202eabc \U0010ffff"]
)
def test_odd_text_fits(text: str) -> None:
    font = _font(12)
    assert font.getlength(fit_text(text, font, 120)) <= 120
    lines = wrap(text, font, 120, 3)
    assert len(lines) <= 3 and all(font.getlength(line) <= 120 for line in lines)
    draw_sheet(text, text, [text], [Row(text, [Cell(torch.zeros(3, 8, 8, dtype=torch.uint8), text)], text)])


def test_printable_keeps_ordinary_text() -> None:
    assert printable(" naïve  café \n 😀 ") == "naïve café 😀"
    assert wrap("one two three", _font(12), 1000, 2) == ["one two three"]


def test_frames_tell_right_from_wrong() -> None:
    grey = torch.full((3, 8, 12), 128, dtype=torch.uint8)
    pixels = np.asarray(draw_sheet("", "", ["a", "b"], [Row("", [Cell(grey, "", GREEN), Cell(grey, "", RED)])]))
    for colour in (GREEN, RED):
        value = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert (pixels == value).all(axis=-1).sum() > 500


def test_run_plots(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,train/loss,train/lr,probe/knn_top1\n0,0,3.5,0.1,\n1,0,nan,0.2,\n1,,,,0.25\n2,0,2.5,0.3,0.5\n3,0,"
    )
    callback = RunPlots(str(tmp_path), queries=4, neighbours=5)
    trainer = fit([callback], steps=3)
    names = [name for name, _, _ in trainer.loggers[0].pictures]  # type: ignore[union-attr]
    assert names == ["neighbours", "curves"]
    for name in names:
        pixels = opened(tmp_path / "plots" / f"{name}.png")
        assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_metrics_are_read_by_column(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,probe/knn\n0,3.5,\n1,nan,0.25\n1,2.0,\nx,9,9\n2,,0.5\n3,1.0,0.7,extra\n4,\n")
    series = read_metrics(path)
    assert {name: (steps.tolist(), values.tolist()) for name, (steps, values) in series.items()} == {
        "train/loss": ([0, 1, 3], [3.5, 2.0, 1.0]),
        "probe/knn": ([1, 2, 3], [0.25, 0.5, 0.7]),
    }


def test_curves_of_nothing(tmp_path: Path) -> None:
    draw_curves({}, tmp_path / "curves.png", "$ odd_{title")
    assert opened(tmp_path / "curves.png").size


def test_queries_come_from_different_classes() -> None:
    labels = torch.arange(40) % 10
    chosen = one_per_class(labels, 8, seed=0)
    assert len({int(labels[position]) for position in chosen}) == 8
    assert chosen == one_per_class(labels, 8, seed=0) != one_per_class(labels, 8, seed=1)
    assert sorted(one_per_class(labels, 100, seed=0)) == list(range(40))
    assert len(set(one_per_class(labels, 15, seed=0))) == 15


def test_neighbours_are_drawn_on_labelled_data_only(fit: Fit, tmp_path: Path) -> None:
    fit([RunPlots(str(tmp_path))], steps=1, data=TinyData(labelled=False))
    assert not (tmp_path / "plots").exists()
