"""CIFAR and STL-10 as torchvision keeps them, made small with the published file layout."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from lgrep.data.sources import TorchvisionSource
from lgrep.errors import ConfigError, DataError

PER_FILE = 12


def cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """CIFAR-10's Python files with a few pictures; torchvision checks their digests, so it is told the new ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (6 * PER_FILE, 3072), dtype=np.uint8)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    digests = []
    for place, name in enumerate(names):
        rows = slice(place * PER_FILE, (place + 1) * PER_FILE)
        entry = {"data": pixels[rows], "labels": [row % 10 for row in range(PER_FILE)]}
        (folder / name).write_bytes(pickle.dumps(entry))
        digests.append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
    meta = {"label_names": [f"class {label}" for label in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    digest = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", digests[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", digests[5:])
    about = {"filename": "batches.meta", "key": "label_names", "md5": digest}
    monkeypatch.setattr(datasets.CIFAR10, "meta", about)
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_cifar10_pixels_labels_and_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = cifar10(tmp_path, monkeypatch)
    source = TorchvisionSource("cifar10", str(tmp_path), probe_per_class=2)
    table = source.training()
    assert len(table) == 5 * PER_FILE and table.num_groups == len(table)
    for row in (0, 13, 59):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(table.read(row)))), pixels[row])
        assert int(table.column("label")[row]) == row % PER_FILE % 10
    probe = source.probe()
    assert probe is not None and probe.class_names[3] == "class 3"
    assert len(probe.gallery) == 20 and len(probe.queries) == PER_FILE
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(probe.queries.read(0)))), pixels[5 * PER_FILE])
    # prepared once: the downloaded files are not needed again
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").unlink()
    assert TorchvisionSource("cifar10", str(tmp_path)).training().content_hash == table.content_hash


def test_stl10_learns_from_unlabelled_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (3, 4, 3, 96, 96), dtype=np.uint8)
    for name, part in zip(("unlabeled_X", "train_X", "test_X"), pixels, strict=True):
        (folder / f"{name}.bin").write_bytes(part.tobytes())
    for name in ("train_y", "test_y"):
        (folder / f"{name}.bin").write_bytes(bytes([1, 2, 3, 10]))
    (folder / "class_names.txt").write_text("\n".join(f"class {label}" for label in range(10)) + "\n")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    source = TorchvisionSource("stl10", str(tmp_path), split="unlabeled")
    table = source.training()
    expected = pixels[0, 1].transpose(2, 1, 0)  # the file holds columns before rows
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(table.read(1)))), expected)
    assert table.column("label").tolist() == [-1] * 4
    probe = source.probe()
    assert probe is not None and probe.queries.column("label").tolist() == [0, 1, 2, 9]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10 cannot be read .*data\.download=true"):
        TorchvisionSource("cifar10", str(tmp_path)).training()
    with pytest.raises(ConfigError, match=r"data\.split=test: cifar10 has train"):
        TorchvisionSource("cifar10", str(tmp_path), split="test")
