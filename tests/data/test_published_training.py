"""Every published layout trains end to end from the command line's settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from published import cc3m, cc12m, imagenet, lgssl, redcaps, yfcc15m
from training.runs import run

LAYOUTS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "cc3m": (cc3m, ["data=cc3m", "data.metadata={}/cc3m.npy", "data.root={}/pictures"]),
    "cc12m": (cc12m, ["data=cc12m", "data.metadata={}/cc12m.npy", "data.root={}/pictures"]),
    "yfcc15m": (yfcc15m, ["data=yfcc15m", "data.metadata={}/yfcc15m.pkl", "data.root={}/pictures"]),
    "lgssl": (lgssl, ["data=lgssl", "data.root={}/redcaps"]),
    "dictionary": (lgssl, ["data=lgssl", "data.root={}/redcaps", "data.dictionary={}/redcaps.json"]),
    "redcaps": (redcaps, ["data=redcaps", "data.root={}", "data.reference_behaviour=true"]),
    "redcaps_2020": (redcaps, ["data=redcaps_2020", "data.root={}"]),
    "imagenet": (imagenet, ["data=imagenet", "data.root={}", "data.probe_classes=2"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_steps(tmp_path: Path, name: str) -> None:
    make, data = LAYOUTS[name]
    folder = make(tmp_path / "set")
    summary = run(
        [
            *(setting.format(folder) for setting in data),
            *("method=simclr", "pairing=self", "augment=simclr", "callbacks=none", "method.projector_dims=[8,8,4]"),
            *("backbone.image_size=32", "duration.steps=2", "schedule.warmup_steps=1", "loader.batch_size=4"),
            *("loader.workers=0", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.threads=1"),
            *(f"paths.runs={tmp_path}/runs", f"name={name}"),
        ]
    )
    assert summary["budget"]["steps"] == 2 and summary["replaced_pictures"] == 0
