from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import picture, picture_folder
from PIL import Image
from torch.utils.data import DataLoader

from lgrep.data.dataset import Collate, ViewDataset
from lgrep.data.orders import RandomOrder
from lgrep.data.pairings import SelfPairing, SiblingPairing
from lgrep.data.randomness import PAIRING_STREAM, keyed_generator
from lgrep.data.samplers import ExactBatchSampler
from lgrep.data.sources import FolderSource
from lgrep.data.transforms import EvalRecipe, Recipe
from lgrep.data.views import View
from lgrep.errors import DataError

VIEWS = [View(0, "strong", 24), View(1, "strong", 24), View(1, "plain", 16)]
TRANSFORMS = {"strong": Recipe(), "plain": EvalRecipe()}


def dataset(root: Path, **changes: Any) -> ViewDataset:
    table = FolderSource(str(root), group="folder", labels="folder", captions="sidecar", probe_share=0.0).training()
    arguments: dict[str, Any] = {"pairing": SiblingPairing(pictures=2), "views": VIEWS, "seed": 5}
    return ViewDataset(table, transforms=TRANSFORMS, **{**arguments, **changes})


def loaded(data: ViewDataset, workers: int) -> list[Any]:
    sampler = ExactBatchSampler(RandomOrder(data.pairing.anchors(data.table), seed=5), 3, total_batches=5)
    collate = Collate(data.views, data.transforms, data.table)
    return list(DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers))


def assert_same(first: list[Any], second: list[Any]) -> None:
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
        assert torch.equal(a.row, b.row)
        for p, q in zip(a.params, b.params, strict=True):
            assert p.tensors.keys() == q.tensors.keys()
            assert all(torch.equal(p.tensors[name], q.tensors[name]) for name in p.tensors)


def test_a_batch_keeps_the_contract(tmp_path: Path) -> None:
    batch = loaded(dataset(picture_folder(tmp_path)), 0)[0]
    assert [tuple(view.shape) for view in batch.views] == [(3, 3, 24, 24), (3, 3, 24, 24), (3, 3, 16, 16)]
    assert all(view.dtype == torch.uint8 for view in batch.views)
    assert batch.row.shape == batch.group.shape == batch.label.shape == (3, 3)
    assert torch.equal(batch.row[1], batch.row[2])  # both are views of picture 1
    assert not torch.equal(batch.row[0], batch.row[1])
    table = dataset(tmp_path).table
    assert batch.group.tolist() == [[int(table.group[row]) for row in rows] for rows in batch.row.tolist()]
    assert batch.label.tolist() == [[int(table.column("label")[row]) for row in rows] for rows in batch.row.tolist()]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(tmp_path: Path, workers: int) -> None:
    root = picture_folder(tmp_path)
    assert_same(loaded(dataset(root), 0), loaded(dataset(root, cache_bytes=10**6), workers))


def test_a_view_depends_on_its_key_alone(tmp_path: Path) -> None:
    data = dataset(picture_folder(tmp_path))
    first, again = data[1, 2], data[1, 2]
    assert all(np.array_equal(a, b) for a, b in zip(first.pixels, again.pixels, strict=True))
    assert not np.array_equal(data[0, 2].pixels[0], first.pixels[0])
    both = dataset(tmp_path, pairing=SelfPairing(), views=[View(0, "strong", 24)] * 2)[0, 0]
    assert not np.array_equal(both.pixels[0], both.pixels[1])


def test_a_dataset_travels_to_a_spawned_worker(tmp_path: Path) -> None:
    data = dataset(picture_folder(tmp_path))
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy[0, 1].pixels[0], data[0, 1].pixels[0])


def test_broken_pictures_are_replaced_by_siblings_first(tmp_path: Path) -> None:
    root = picture_folder(tmp_path)
    broken = root / "class_b" / "caption_0" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    (root / "class_b" / "caption_2" / "0.png").write_bytes(b"no picture")
    data = dataset(root)
    bad = {
        row
        for row in range(len(data.table))
        if "caption_0/1" in data.table.identity(row) or "caption_2/0" in data.table.identity(row)
    }
    batches = loaded(data, 0)
    replaced = [item for batch in batches for item in batch.replaced]
    assert {row for row, _, _ in replaced} == bad
    assert all(data.table.group[row] == data.table.group[used] and reason for row, used, reason in replaced)
    assert not bad & {row for batch in batches for row in batch.row.flatten().tolist()}
    assert {tuple(view.shape) for batch in batches for view in batch.views} == {(3, 3, 24, 24), (3, 3, 16, 16)}
    assert_same(batches, loaded(dataset(root), 2))


def test_without_siblings_another_row_stands_in(tmp_path: Path) -> None:
    root = picture_folder(tmp_path)
    (root / "class_b" / "caption_0" / "1.png").write_bytes(b"no picture")
    data = dataset(root, pairing=SelfPairing(), views=[View(0, "strong", 24)] * 2)
    row = next(row for row in range(len(data.table)) if "caption_0/1" in data.table.identity(row))
    samples = [data[epoch, row] for epoch in range(12)]
    assert all(sample.rows[0] != row and len(sample.replaced) == 1 for sample in samples)
    assert len({sample.rows[0] for sample in samples}) > 3  # drawn anew in every epoch, not always the same


def test_when_nothing_can_be_read_the_file_is_named(tmp_path: Path) -> None:
    root = picture_folder(tmp_path, groups=2, per_group=2)
    for file in root.rglob("*.png"):
        file.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"\d\.png cannot be read \(a web page.*neither could 3 pictures tried"):
        dataset(root)[0, 0]


@pytest.mark.parametrize("broken", range(3))
def test_an_unused_sibling_comes_before_one_in_use(tmp_path: Path, broken: int) -> None:
    """Of three siblings two are drawn: if one of them is broken, the third takes its place."""
    root = picture_folder(tmp_path, groups=1)
    next(root.rglob(f"{broken}.png")).write_bytes(b"no picture")
    samples = [dataset(root)[epoch, 0] for epoch in range(20)]
    assert all(set(sample.rows) == {0, 1, 2} - {broken} for sample in samples)
    assert 5 < sum(len(sample.replaced) for sample in samples) <= 20


def test_all_siblings_broken_are_replaced_by_one_picture(tmp_path: Path) -> None:
    """Two unrelated pictures must not be called positives of each other."""
    root = picture_folder(tmp_path)
    for file in (root / "class_b" / "caption_2").glob("*.png"):
        file.write_bytes(b"no picture")
    data = dataset(root)
    bad = set(data.table.members(int(np.flatnonzero(data.table.caption_column("text") == "caption number 2")[0])))
    anchor = int(data.table.group[min(bad)])
    for epoch in range(8):
        sample = data[epoch, anchor]
        assert len(set(sample.rows)) == 1
        assert not bad & set(sample.rows)
        assert [row for row, _, _ in sample.replaced] == sample_rows(data, epoch, anchor)


def sample_rows(data: ViewDataset, epoch: int, anchor: int) -> list[int]:
    rng = keyed_generator(data.seed, epoch, anchor, PAIRING_STREAM)
    return [int(row) for row in data.pairing.draw(data.table, anchor, rng)]


@pytest.mark.parametrize("changes", [{"cache_bytes": 10**6}, {"cache_bytes": 5000}])
def test_the_cache_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    root = picture_folder(tmp_path)
    assert_same(loaded(dataset(root), 0), loaded(dataset(root, **changes), 0))


def test_finished_views_are_those_of_the_device_stage(tmp_path: Path) -> None:
    root = picture_folder(tmp_path)
    for shipped, finished in zip(loaded(dataset(root), 0), loaded(dataset(root, finished=True), 2), strict=True):
        for number, view in enumerate(VIEWS):
            expected = TRANSFORMS[view.transform].device(shipped.views[number], shipped.params[number].tensors)
            assert torch.equal(finished.views[number], expected)


def large_pictures(root: Path) -> Path:
    """JPEG files that are worth decoding at a smaller scale, one that cannot be (EXIF), and a PNG."""
    root.mkdir()
    for number in range(4):
        picture(number, 400 + number, 301).save(root / f"{number}.jpg", quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(9, 400, 301).save(root / "turned.jpg", exif=turned)
    picture(10, 400, 301).save(root / "z.png")
    return root


def scaled_dataset(root: Path, **changes: Any) -> ViewDataset:
    table = FolderSource(str(root), probe_share=0.0).training()
    transforms = {"strong": Recipe(crop_scale=(0.2, 1.0)), "plain": EvalRecipe()}
    views = changes.pop("views", [View(0, "strong", 24), View(0, "strong", 32)])
    return ViewDataset(table, SelfPairing(), views, transforms, 5, **changes)


def test_scaled_decoding_is_near_the_whole_picture(tmp_path: Path) -> None:
    root = large_pictures(tmp_path / "set")
    exact, scaled = scaled_dataset(root), scaled_dataset(root, scaled=True)
    differences = []
    for row in range(len(exact.table)):
        one, other = exact[0, row], scaled[0, row]
        assert one.params == other.params  # drawn for the whole picture
        differences.append(max(np.abs(a.astype(int) - b).mean() for a, b in zip(one.pixels, other.pixels, strict=True)))
    assert 0 < max(differences) < 4  # grey levels
    unscalable = [
        row for row in range(6) if not exact.table.identity(row).endswith(("0.jpg", "1.jpg", "2.jpg", "3.jpg"))
    ]
    assert len(unscalable) == 2 and all(differences[row] == 0 for row in unscalable)


def test_scaled_decoding_does_not_depend_on_cache_or_workers(tmp_path: Path) -> None:
    root = large_pictures(tmp_path / "set")
    plain = loaded(scaled_dataset(root, scaled=True), 0)
    assert_same(plain, loaded(scaled_dataset(root, scaled=True, cache_bytes=10**7), 0))
    assert_same(plain, loaded(scaled_dataset(root, scaled=True, cache_bytes=10**7), 2))


def test_a_view_that_needs_the_whole_picture_keeps_it_whole(tmp_path: Path) -> None:
    root = large_pictures(tmp_path / "set")
    views = [View(0, "strong", 24), View(0, "plain", 32)]
    for row in range(6):
        one, other = (scaled_dataset(root, views=views, scaled=scaled)[0, row] for scaled in (False, True))
        assert all(np.array_equal(a, b) for a, b in zip(one.pixels, other.pixels, strict=True))
