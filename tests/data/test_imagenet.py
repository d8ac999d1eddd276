"""Labelled folders per split."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from published import imagenet, jpeg

from lgrep.data.sources import ImageNetSource
from lgrep.errors import DataError


def test_train_and_val(tmp_path: Path) -> None:
    source = ImageNetSource(str(imagenet(tmp_path)), probe_classes=2, gallery_per_class=4, queries_per_class=2)
    table = source.training()
    assert len(table) == 18 and table.column("label").tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert table.read(7) == jpeg(1001)
    probe = source.probe()
    assert probe is not None and probe.class_names == ["n01440764", "n01443537", "n01484850"]
    for found, count in ((probe.gallery, 4), (probe.queries, 2)):
        labels = found.column("label").tolist()
        assert len(set(labels)) == 2 and sorted(labels) == sorted(sorted(set(labels)) * count)
    queries = {probe.queries.identity(row) for row in range(len(probe.queries))}
    assert all("ILSVRC2012_val" in name for name in queries)
    again = ImageNetSource(str(tmp_path), probe_classes=2, gallery_per_class=4, queries_per_class=2).probe()
    assert again is not None and {again.queries.identity(row) for row in range(4)} == queries
    everything = ImageNetSource(str(tmp_path), probe_classes=None, gallery_per_class=99, queries_per_class=99).probe()
    assert everything is not None and (len(everything.gallery), len(everything.queries)) == (18, 9)


def test_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = imagenet(tmp_path / "set")
    assert ImageNetSource(str(folder), val=None).probe() is None
    assert ImageNetSource(str(folder), val="none").probe() is None
    assert "no online probes" in capsys.readouterr().err
    with pytest.raises(DataError, match="has no folder 'other'"):
        ImageNetSource(str(folder), train="other").training()
    shutil.move(folder / "val" / "n01484850", folder / "val" / "n99999999")
    with pytest.raises(DataError, match=r"different class folders \(2, e.g. n01484850\)"):
        ImageNetSource(str(folder)).probe()
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    (folder / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(0))
    with pytest.raises(DataError, match="has no class folders"):
        ImageNetSource(str(folder)).probe()
