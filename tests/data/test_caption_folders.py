"""The published caption file and folder list as a table."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from layouts import CAPTIONS, SEEDS, caption_text, relative, stablerep_layout
from made import encoded

from lgrep.data.dataset import ViewDataset
from lgrep.data.pairings import SiblingPairing
from lgrep.data.sources import CaptionFolders
from lgrep.data.stores import RootsStore
from lgrep.data.table import RootsTable, Table
from lgrep.data.transforms import Recipe
from lgrep.data.views import View
from lgrep.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stablerep_layout(tmp_path_factory.mktemp("layout"))


def source(folder: Path, **settings: object) -> CaptionFolders:
    return CaptionFolders(str(folder / "captions.csv"), str(folder), **settings)  # type: ignore[arg-type]


def test_every_root_has_one_picture_of_every_caption(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = source(layout)
    table = opened.training()
    assert opened.training() is table
    said = capsys.readouterr().err
    assert said.count("1 of 13 rows are left out") == 1 and "'filename'" in said
    assert (len(table), table.num_groups) == (CAPTIONS * SEEDS, CAPTIONS)
    for row in range(len(table)):
        number, seed = row // SEEDS, row % SEEDS + 1
        assert table.identity(row) == f"ddim_2.0_seed_{seed}/{relative(number)}"
        assert table.read(row) == encoded(1000 * seed + number)
        assert table.caption(row) == caption_text(number)
    assert [list(table.members(g)) for g in (0, 11)] == [list(range(10)), list(range(110, 120))]
    assert table.group.tolist() == np.repeat(np.arange(CAPTIONS), SEEDS).tolist()
    assert table.caption_column("text").tolist() == [caption_text(number) for number in range(CAPTIONS)]
    assert source(layout).probe() is None


def test_nothing_is_stored_per_picture() -> None:
    """12 million captions below 10 folders must not cost memory for 120 million pictures."""
    paths = pa.chunked_array([pa.array(["a.png"] * 100_000)])
    starts = np.arange(100_001) * 1000
    roots = [Path(f"root_{i}") for i in range(1000)]
    before = pa.total_allocated_bytes()
    table = RootsTable(RootsStore(roots, paths), pa.table({"id": paths, "text": paths}), starts, "wide", "")
    assert len(table) == 100_000_000
    assert SiblingPairing(6, "refuse").anchors(table).tolist() == list(range(100_000))
    rows = SiblingPairing(6, "refuse").draw(table, 99_999, np.random.default_rng(0))
    assert all(99_999_000 <= row < 100_000_000 for row in rows)
    assert table.identity(99_999_999) == "root_999/a.png"
    assert pa.total_allocated_bytes() - before < 10_000_000
    assert not any(isinstance(value, np.ndarray) and value.nbytes > 10_000_000 for value in vars(table).values())


@pytest.mark.parametrize("rows", [range(120), [3, 17, 18, 119]])
def test_a_selection_and_a_copy_read_the_same_pictures(layout: Path, rows: list[int]) -> None:
    table = source(layout).training()
    part = table.select(rows)
    assert type(part) is Table
    copies = [part, pickle.loads(pickle.dumps(part)), pickle.loads(pickle.dumps(table)).select(rows)]
    for copy in copies:
        assert [copy.identity(i) for i in range(len(copy))] == [table.identity(row) for row in rows]
        assert [copy.read(i) for i in range(len(copy))] == [table.read(row) for row in rows]
        assert [copy.caption(i) for i in range(len(copy))] == [table.caption(row) for row in rows]
        assert copy.content_hash == part.content_hash
    again = part.select([1, 2])
    assert [again.read(i) for i in (0, 1)] == [table.read(rows[1]), table.read(rows[2])]


def test_rows_of_equal_text_are_separate_as_published_or_merged(layout: Path) -> None:
    separate, merged = source(layout).training(), source(layout, same_text="merge").training()
    assert separate.caption(40) == separate.caption(50)
    assert separate.counts.tolist() == [10] * 12
    assert merged.counts.tolist() == [10, 10, 10, 10, 20] + [10] * 6
    texts = merged.caption_column("text").tolist()
    assert texts == list(dict.fromkeys(caption_text(number) for number in range(CAPTIONS)))
    assert {merged.identity(row) for row in merged.members(4)} == {separate.identity(row) for row in range(40, 60)}
    assert {merged.identity(row) for row in range(120)} == {separate.identity(row) for row in range(120)}
    for row in range(120):
        number = int(Path(merged.identity(row)).stem)
        assert merged.caption(row) == caption_text(number)
        assert merged.caption_column("id")[merged.group[row]] == relative(4 if number == 5 else number)
    assert merged.content_hash != separate.content_hash


def test_a_missing_picture_is_replaced_by_another_of_its_caption(tmp_path: Path) -> None:
    folder = stablerep_layout(tmp_path, captions=2, seeds=7)
    for seed in (1, 3, 5):
        (folder / f"ddim_2.0_seed_{seed}" / relative(1)).unlink(missing_ok=True)
    table = source(folder, seeds=7).training()
    views = [View(number, "strong", 16) for number in range(6)]
    data = ViewDataset(table, SiblingPairing(6, "refuse"), views, {"strong": Recipe()}, seed=0)
    sample = data[0, 1]
    assert all(row in table.members(1) for row in sample.rows)
    assert {row % 7 + 1 for row in sample.rows} <= {2, 4, 6, 7}
    assert {row % 7 + 1 for row, _, _ in sample.replaced} <= {1, 3, 5} and len(sample.replaced) >= 2
    assert not data[0, 0].replaced


@pytest.mark.parametrize("written", ["2", "2.0"])
def test_whole_guidance_scales_may_be_written_either_way(tmp_path: Path, written: str) -> None:
    folder = stablerep_layout(tmp_path, captions=1, seeds=2, scale=written)
    table = source(folder, seeds=(2, 1), guidance_scale=2).training()
    assert [table.identity(row).split("/")[0] for row in range(2)] == [f"ddim_{written}_seed_{n}" for n in (2, 1)]
    (folder / f"ddim_{'2' if written == '2.0' else '2.0'}_seed_2").mkdir()
    with pytest.raises(DataError, match=r"holds both ddim_2\.0_seed_2 and ddim_2_seed_2.*data\.folder_list="):
        source(folder, seeds=2).training()


def test_scales_samplers_and_folder_lists(tmp_path: Path) -> None:
    folder = stablerep_layout(tmp_path, captions=1, seeds=3, scale="7.5")
    assert len(source(folder, seeds=3, guidance_scale=7.5).training()) == 3
    shutil.move(folder / "ddim_7.5_seed_1", folder / "plms_7.5_seed_1")
    plms = source(folder, seeds=1, guidance_scale=7.5, sampler="plms").training()
    listed = CaptionFolders(str(folder / "captions.csv"), folder_list=(str(folder / "plms_7.5_seed_1"),)).training()
    assert plms.identity(0) == listed.identity(0) == f"plms_7.5_seed_1/{relative(0)}"
    assert plms.content_hash == listed.content_hash
    (folder / "ddim_2.0_seed_2").mkdir()
    with pytest.raises(
        DataError, match=r"lacks 2 of 3.*: ddim_2\.0_seed_1.*It holds .*ddim_7\.5_seed_3.*guidance_scale="
    ):
        source(folder, seeds=(1, 5, 2), guidance_scale=2).training()


def test_equal_sets_have_equal_hashes_wherever_they_lie(layout: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(layout, moved)
    assert source(moved).training().content_hash == source(layout).training().content_hash
    assert source(moved, seeds=9).training().content_hash != source(layout).training().content_hash
    (moved / "captions.csv").open("a").write("000000/000000/00012.png,one more\n")
    assert source(moved).training().content_hash != source(layout).training().content_hash


def test_absent_data_say_what_to_get_and_what_to_type(layout: Path, tmp_path: Path) -> None:
    file, root = str(layout / "captions.csv"), str(layout)
    cases: list[tuple[CaptionFolders, str]] = [
        (
            CaptionFolders(),
            r"data\.csv and data\.root \(or data\.folder_list\) not set.*stablerep\.md.*Type data\.csv=",
        ),
        (CaptionFolders(file), r": data\.root \(or data\.folder_list\) not set.*data\.folder_list=\["),
        (CaptionFolders(root=root), r": data\.csv not set"),
        (CaptionFolders(str(tmp_path / "no.csv"), root), r"data\.csv=.*no\.csv is no file.*data\.csv=FILE\.csv"),
        (CaptionFolders(file, str(tmp_path / "no")), r"data\.root=.*no is no folder.*data\.root=DIR"),
        (CaptionFolders(file, str(tmp_path)), r"lacks 10 of 10 folders.*no folder of that kind.*data\.root=DIR"),
        (source(layout, seeds=12), r"lacks 2 of 12 folders: ddim_2\.0_seed_11, ddim_2\.0_seed_12\. .*data\.seeds="),
        (
            CaptionFolders(file, folder_list=(f"{root}/ddim_2.0_seed_1", f"{root}/x")),
            r"data\.folder_list: 1 of 2 folders are missing: .*/x\. Leave them out of data\.folder_list=",
        ),
    ]
    for made, message in cases:
        with pytest.raises(DataError, match=message):
            made.training()


def test_paths_that_do_not_fit_the_folders_are_refused_before_training(tmp_path: Path) -> None:
    folder = stablerep_layout(tmp_path, captions=3, seeds=2)
    shutil.rmtree(folder / "ddim_2.0_seed_2" / "000000")
    with pytest.raises(DataError, match=r"seed_2 holds none of 16 pictures.*00000\.png.*data\.seeds="):
        source(folder, seeds=2).training()
    (folder / "captions.csv").write_text("/absolute/a.png,x\n")
    with pytest.raises(DataError, match=r"1 rows have an absolute path in column 1"):
        source(folder, seeds=1).training()


def test_repeated_paths_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stablerep_layout(tmp_path, captions=3, seeds=1)
    with (folder / "captions.csv").open("a") as handle:
        handle.write(f"{relative(1)},again\n{relative(1)},and again\n")
    assert len(source(folder, seeds=1).training()) == 5
    assert "2 rows repeat the path of an earlier row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": "a", "folder_list": ("b",)}, r"data\.root=null or data\.folder_list=null"),
        ({"seeds": (1, 2, 1)}, r"data\.seeds=\[1, 2, 1\] names something twice"),
        ({"seeds": ()}, r"data\.seeds=\[\] is empty\. Type data\.seeds=\[1,2,3\]"),
        ({"folder_list": ("a", "a")}, r"data\.folder_list=.*twice"),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CaptionFolders("captions.csv", **settings)  # type: ignore[arg-type]
