"""Tar, zip, Parquet and Arrow files train directly, and survive what happens to them on the way."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from archives import members, write_parquet, write_tar, write_zip
from training.runs import overrides, run

from lgrep.data.dataset import ViewDataset
from lgrep.data.pairings import SelfPairing
from lgrep.data.sources import WebDataset
from lgrep.data.transforms import Recipe
from lgrep.data.views import View


def made(folder: Path, kind: str) -> list[str]:
    """Files of a kind, and the overrides that train on them."""
    if kind == "webdataset":
        return [f"data.shards={write_tar(folder / '0.tar', members())}", "data.labels=cls"]
    if kind == "zips":
        write_zip(folder / "0.zip", members(), zipfile.ZIP_DEFLATED)
        return [f"data.archives={folder}", "data.labels=folder", "data.captions=[txt]"]
    write_parquet(folder / "train-0.parquet")
    return [f"data.files={folder}"]


@pytest.mark.parametrize(("kind", "order"), [("webdataset", "shards"), ("zips", "random"), ("parquet", "shards")])
def test_containers_train(tmp_path: Path, kind: str, order: str) -> None:
    (tmp_path / "unused").mkdir()
    chosen = [one for one in overrides(tmp_path / "unused", tmp_path / "runs") if not one.startswith("data")]
    given = made(tmp_path / "files", kind)
    more = (f"data={kind}", *given, "data.group=caption", "data.probe_share=0.2", f"loader.order={order}")
    results = run([*chosen, *more, "duration.steps=2", "schedule.warmup_steps=1"])
    assert results


def test_a_shard_that_shrinks_during_training_costs_its_pictures_only(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", members())
    table = WebDataset(str(path), labels="cls", probe_share=0).training()
    views = [View(picture=0, transform="plain", size=8)]
    data = ViewDataset(table, SelfPairing(), views, {"plain": Recipe(flip=0.0)}, seed=0)
    assert data[0, 30].rows == [30] and not data[0, 30].replaced
    keep = int(table.store.offset[20])  # type: ignore[attr-defined]
    path.write_bytes(path.read_bytes()[:keep])
    assert data[1, 5].rows == [5]
    sample = data[1, 30]
    (row, used, reason) = sample.replaced[0]
    assert row == 30 and used < 20 and sample.rows == [used]
    assert "beyond the end of the file" in reason
