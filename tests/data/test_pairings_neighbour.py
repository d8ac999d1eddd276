"""Neighbour pairing against brute force over hand-made tables."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import picture_folder
from torch.utils.data import DataLoader
from training.runs import overrides, run

from lgrep.config.compose import compose_config
from lgrep.data.batch import Batch
from lgrep.data.dataset import Collate, ViewDataset
from lgrep.data.neighbours import NeighboursAbout, Unit, write_neighbours
from lgrep.data.pairings import NeighbourPairing, Pairing, SelfPairing, SiblingPairing, relations_of
from lgrep.data.sources import FolderSource
from lgrep.data.stores import FolderStore
from lgrep.data.table import Table
from lgrep.data.transforms import EvalRecipe
from lgrep.data.views import View
from lgrep.errors import ConfigError, DataError
from lgrep.training.resolve import resolve


def table(groups: list[int], families: list[int] | None = None, captions: int = 0, hashed: str = "h") -> Table:
    columns: dict[str, Any] = {"id": [str(i) for i in range(len(groups))], "group": pa.array(groups, pa.int32())}
    if families is not None:
        columns["family"] = pa.array(families, pa.int32())
    count = max(captions, max(groups, default=-1) + 1)
    texts = pa.table({"id": [str(i) for i in range(count)], "text": ["x"] * count})
    return Table(pa.table(columns), texts, FolderStore(Path(), []), "made", hashed)


def mined(folder: Path, lists: list[list[tuple[int, float]]], unit: Unit = "caption", hashed: str = "h") -> str:
    """A table from each unit's [(neighbour, similarity), ...], best first."""
    k = max(1, max(map(len, lists)))
    padded = [[*listed, *[(-1, 0.0)] * (k - len(listed))] for listed in lists]
    indices = np.array([[i for i, _ in row] for row in padded])
    similarities = np.array([[s for _, s in row] for row in padded])
    about = NeighboursAbout(unit=unit, table="made", content_hash=hashed)
    return str(write_neighbours(folder, indices, similarities, about))


def draws(pairing: Pairing, data: Table, anchor: int, times: int = 300) -> list[list[int]]:
    return [list(pairing.draw(data, anchor, np.random.default_rng(i))) for i in range(times)]


FOUR = [[(1, 0.9), (2, 0.5), (3, 0.1)], [(0, 0.9), (3, 0.2)], [(0, 0.5)], []]


def test_a_caption_neighbour_shows_any_of_its_pictures(tmp_path: Path) -> None:
    data, pairing = table([0, 0, 1, 1, 1, 2, 3]), NeighbourPairing(mined(tmp_path, FOUR))
    assert pairing.anchors(data).tolist() == [0, 1, 2, 3, 4, 5]  # caption 3 has no neighbour: dropped
    shown = Counter(tuple(rows) for rows in draws(pairing, data, 1, 900))
    assert set(shown) == {(1, 2), (1, 3), (1, 4)} and all(240 < count < 360 for count in shown.values())
    assert {tuple(rows) for rows in draws(pairing, data, 5)} == {(5, 0), (5, 1)}
    assert pairing.group(data, 5) == 5


def test_a_picture_neighbour_is_a_row(tmp_path: Path) -> None:
    data, pairing = table([0, 0, 0, 1]), NeighbourPairing(mined(tmp_path, FOUR, unit="picture"), k=None, pictures=3)
    assert all(rows[0] == 0 and len(set(rows)) == 3 for rows in draws(pairing, data, 0))
    assert {row for rows in draws(pairing, data, 0) for row in rows} == {0, 1, 2, 3}


def test_threshold_and_k_choose_the_edges(tmp_path: Path) -> None:
    data, path = table([0, 1, 2, 3]), mined(tmp_path, FOUR)
    for k, threshold, partners in (
        (1, None, {1}),
        (2, None, {1, 2}),
        (None, None, {1, 2, 3}),
        (None, 0.5, {1, 2}),
        (None, 0.6, {1}),
    ):
        pairing = NeighbourPairing(path, k=k, threshold=threshold)
        assert {rows[1] for rows in draws(pairing, data, 0)} == partners, (k, threshold)


def test_sampling_among_the_neighbours(tmp_path: Path) -> None:
    data, path = table([0, 1, 2, 3]), mined(tmp_path, FOUR)
    assert {rows[1] for rows in draws(NeighbourPairing(path, k=None, sampling="nearest"), data, 0)} == {1}
    uniform = Counter(rows[1] for rows in draws(NeighbourPairing(path, k=None), data, 0, 1500))
    assert all(abs(uniform[n] - 500) < 80 for n in (1, 2, 3))
    soft = Counter(
        rows[1] for rows in draws(NeighbourPairing(path, k=None, sampling="similarity", temperature=0.4), data, 0, 3000)
    )
    weights = np.exp(np.array([0.9, 0.5, 0.1]) / 0.4)
    expected = 3000 * weights / weights.sum()
    assert all(abs(soft[n] - expected[n - 1]) < 4.5 * np.sqrt(expected[n - 1]) for n in (1, 2, 3))
    second = Counter(
        rows[2]
        for rows in draws(
            NeighbourPairing(path, k=None, pictures=3, sampling="similarity", temperature=0.4), data, 0, 3000
        )
        if rows[1] == 1
    )  # given that 1 is taken, the softmax over the others
    assert abs(second[2] / sum(second.values()) - weights[1] / weights[1:].sum()) < 0.05


def test_symmetric_adds_those_that_list_the_anchor(tmp_path: Path) -> None:
    data, path = table([0, 1, 2, 3]), mined(tmp_path, FOUR)
    pairing = NeighbourPairing(path, k=None, symmetric=True)
    assert pairing.anchors(data).tolist() == [0, 1, 2, 3]
    assert {rows[1] for rows in draws(pairing, data, 3)} == {0, 1}
    nearest = NeighbourPairing(path, k=None, symmetric=True, sampling="nearest")
    assert draws(nearest, data, 3, 1) == [[3, 1]]  # 1 lists 3 with 0.2, 0 with 0.1
    assert {rows[1] for rows in draws(NeighbourPairing(path, k=2, symmetric=True), data, 3)} == {1}


def test_too_few_neighbours_are_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, pairing = table([0, 1, 2, 3]), NeighbourPairing(mined(tmp_path, FOUR), k=None, pictures=4)
    assert pairing.anchors(data).tolist() == [0, 1, 2]
    assert capsys.readouterr().err.splitlines() == [
        "note: made: 1 of 4 pictures have no neighbour with pairing.threshold=0.0 and are left out (pairing.missing=drop)",
        "note: made: 2 of 4 pictures have fewer than 3 neighbours, which are shown again with other crops. "
        "Fewer: pairing.pictures=2",
    ]
    assert all(sorted(Counter(rows[1:]).values()) == [1, 2] and 1 not in rows[1:] for rows in draws(pairing, data, 1))
    assert draws(pairing, data, 2, 3) == [[2, 0, 0, 0]] * 3


def test_anchors_without_a_neighbour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, path = table([0, 1, 2, 3]), mined(tmp_path, FOUR)
    own = NeighbourPairing(path, missing="self")
    assert own.anchors(data).tolist() == [0, 1, 2, 3] and list(own.draw(data, 3, np.random.default_rng())) == [3, 3]
    assert "1 of 4 pictures have no neighbour" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"1 of 4 .*pairing\.k=1.*Type pairing\.missing=self or =drop, or a lower"):
        NeighbourPairing(path, missing="refuse").anchors(data)
    with pytest.raises(DataError, match=r"4 of 4 .*threshold=0\.95; the greatest similarity is 0\.9\. Type"):
        NeighbourPairing(path, threshold=0.95, missing="self").anchors(data)


def test_pictures_of_one_family_are_never_drawn_together(tmp_path: Path) -> None:
    lists = [[(1, 0.9), (2, 0.8)], [(0, 0.9)], [(0, 0.5)]]
    data = table([0, 0, 1, 1, 2], families=[7, 8, 7, 9, 7])
    pairing = NeighbourPairing(mined(tmp_path, lists), k=None)
    assert {rows[1] for rows in draws(pairing, data, 0)} == {3}
    assert {rows[1] for rows in draws(pairing, data, 1)} == {2, 3, 4}
    assert pairing.anchors(data).tolist() == [0, 1, 2, 3, 4]
    only = NeighbourPairing(mined(tmp_path / "b", [[(1, 0.9)], [(0, 0.9)]]))
    alone = table([0, 1], families=[7, 7])
    with pytest.raises(DataError, match="2 of 2 pictures have no neighbour"):
        only.anchors(alone)
    some = table([0, 0, 1], families=[7, 8, 7])
    for symmetric in (False, True):
        assert NeighbourPairing(only.table, symmetric=symmetric).anchors(some).tolist() == [1, 2]


def test_captions_without_pictures_are_no_neighbours(tmp_path: Path) -> None:
    data = table([0, 2], captions=3)
    for symmetric in (False, True):
        pairing = NeighbourPairing(
            mined(tmp_path / str(symmetric), [[(1, 0.9), (2, 0.1)], [(0, 1.0)], [(1, 0.5)]]),
            k=None,
            symmetric=symmetric,
        )
        assert pairing.anchors(data).tolist() == ([0, 1] if symmetric else [0])
        assert {rows[1] for rows in draws(pairing, data, 0, 30)} == {1}


def test_substitutes(tmp_path: Path) -> None:
    data, pairing = table([0, 0, 1, 1, 2, 3]), NeighbourPairing(mined(tmp_path, FOUR), k=2)
    assert set(pairing.substitutes(data, 0, drawn=[0])) == {2, 3, 4}  # a broken neighbour: others
    assert set(pairing.substitutes(data, 0, drawn=[2])) == {1}  # the broken anchor: of its caption
    assert set(pairing.substitutes(data, 4, drawn=[0])) == {
        1
    }  # ... which has no other picture: neighbours not shown yet
    assert set(pairing.substitutes(data, 5, drawn=[])) == set()


def test_a_pairing_travels_with_its_reverse_lists(tmp_path: Path) -> None:
    data, pairing = table([0, 1, 2, 3]), NeighbourPairing(mined(tmp_path, FOUR), k=None, symmetric=True)
    pairing.anchors(data)
    copy = pickle.loads(pickle.dumps(pairing))
    assert draws(copy, data, 3, 20) == draws(pairing, data, 3, 20)


def test_what_is_missing_is_said_with_the_command(tmp_path: Path) -> None:
    data = table([0, 1])
    for path in (None, str(tmp_path / "none")):
        with pytest.raises(DataError, match=r"python scripts/mine_neighbours\.py data=NAME out=.* pairing\.table="):
            NeighbourPairing(path).anchors(data)
    path = mined(tmp_path / "n", [[(1, 0.5)], [(0, 0.5)]])
    with pytest.raises(DataError, match=r"mined for another set: made of 2 captions \(h\).*\(g; a filter makes"):
        NeighbourPairing(path).anchors(table([0, 1], hashed="g"))
    with pytest.raises(DataError, match=r"trains on made of 3 \(h"):
        NeighbourPairing(path).anchors(table([0, 1, 2]))
    with pytest.raises(
        DataError, match=r"pairing\.k=5, but .* stores 1 neighbours of each caption\. Type pairing\.k=1"
    ):
        NeighbourPairing(path, k=5).anchors(data)
    with pytest.raises(DataError, match=r"pairing\.pictures=4, but .* stores 1"):
        NeighbourPairing(path, k=None, pictures=4).anchors(data)
    with pytest.raises(
        ConfigError, match=r"shows 3 neighbours, but pairing\.k=1.*pairing\.k=3 or more, or pairing\.pi"
    ):
        NeighbourPairing(path, pictures=4)


def brute_relations(
    lists: list[list[int]], units: list[int], shape: tuple[int, int], symmetric: bool
) -> set[tuple[int, int]]:
    count = shape[0] * shape[1]
    near = {(a, b) for a, listed in enumerate(lists) for b in listed} | {(a, a) for a in range(len(lists))}
    near |= {(b, a) for a, b in near} if symmetric else set()
    return {
        (i, j)
        for i in range(count)
        for j in range(count)
        if i % shape[1] != j % shape[1] and (units[i], units[j]) in near
    }


@given(data=st.data(), symmetric=st.booleans(), unit=st.sampled_from(["caption", "picture"]))
@settings(max_examples=25, deadline=None)
def test_relations_are_those_of_brute_force(
    data: st.DataObject, symmetric: bool, unit: Unit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    groups = sorted(data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=12)))
    groups = [sorted(set(groups)).index(group) for group in groups]
    total = len(groups) if unit == "picture" else max(groups) + 1
    listed = [
        data.draw(st.lists(st.sampled_from([u for u in range(total) if u != own] or [0]), unique=True, max_size=3))
        if total > 1
        else []
        for own in range(total)
    ]
    path = mined(tmp_path_factory.mktemp("n") / "t", [[(u, 0.5) for u in row] for row in listed], unit)
    made = table(groups)
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5)))
    rows = np.array(data.draw(st.lists(st.integers(0, len(groups) - 1), min_size=shape[0] * shape[1], max_size=15)))
    rows = rows[: shape[0] * shape[1]].reshape(shape)
    units = [int(row) if unit == "picture" else groups[row] for row in rows.reshape(-1)]
    expected = brute_relations(listed, units, shape, symmetric)
    pairing = NeighbourPairing(path, k=None, symmetric=symmetric, in_batch="positive")
    positives, ignore = pairing.relations(made, rows[0], rows)
    assert ignore is None and positives is not None
    pairs = [tuple(pair) for pair in positives[0].T.tolist()]
    assert len(pairs) == len(set(pairs)) and set(pairs) == expected and (positives[1] == 1).all()
    pairing.in_batch = "ignore"
    positives, ignore = pairing.relations(made, rows[0], rows)
    assert positives is None and ignore is not None and [tuple(pair) for pair in ignore.T.tolist()] == pairs
    pairing.in_batch = "negative"
    assert pairing.relations(made, rows[0], rows) == (None, None)


def test_positives_leave_out_pictures_of_one_family(tmp_path: Path) -> None:
    data = table([0, 1, 2], families=[7, 7, 8])
    path = mined(tmp_path, [[(1, 0.9), (2, 0.8)], [(0, 0.9)], []])
    rows = np.array([[0, 1, 2]])
    positives, _ = NeighbourPairing(path, k=None, in_batch="positive").relations(data, rows[0], rows)
    assert positives is not None and positives[0].tolist() == [[0], [2]]


def test_relations_travel_and_belong_to_pairings_that_have_them(tmp_path: Path) -> None:
    data = table([0, 1, 2, 3])
    assert relations_of(SelfPairing(), data) is None
    rows = np.array([[0, 1, 2, 3]])
    relations = relations_of(NeighbourPairing(mined(tmp_path, FOUR), in_batch="ignore"), data)
    _, ignore = pickle.loads(pickle.dumps(relations))(rows[0], rows)
    assert ignore.tolist() == [[0, 1, 2], [1, 0, 0]]


@st.composite
def sets(draw: st.DrawFn) -> tuple[Table, list[list[int]], list[list[int]]]:
    """A table with or without families, and neighbour lists of its captions and of its pictures."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    families = draw(st.none() | st.lists(st.integers(0, 3), min_size=len(groups), max_size=len(groups)))
    lists = []
    for count in (len(sizes), len(groups)):
        others = [[u for u in range(count) if u != own] for own in range(count)]
        lists.append(
            [draw(st.lists(st.sampled_from(some), unique=True, max_size=4)) if some else [] for some in others]
        )
    return table(groups, families), lists[0], lists[1]


@given(made=sets(), choice=st.data())
@settings(max_examples=80, deadline=None)
def test_every_pairing_keeps_its_promises(
    made: tuple[Table, list[list[int]], list[list[int]]],
    choice: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data, of_captions, of_pictures = made
    unit: Unit = choice.draw(st.sampled_from(["caption", "picture"]))
    lists = of_captions if unit == "caption" else of_pictures
    scored = [[(u, 0.9 - 0.1 * i) for i, u in enumerate(row)] for row in lists]
    pictures = choice.draw(st.integers(2, 4))
    neighbour = NeighbourPairing(
        mined(tmp_path_factory.mktemp("n") / "t", scored, unit),
        pictures=pictures,
        k=choice.draw(st.sampled_from([None, 1])) if pictures == 2 else None,
        threshold=choice.draw(st.sampled_from([None, 0.75])),
        sampling=choice.draw(st.sampled_from(["uniform", "nearest", "similarity"])),
        symmetric=choice.draw(st.booleans()),
        missing=choice.draw(st.sampled_from(["self", "drop"])),
    )
    for pairing in (SelfPairing(), SiblingPairing(pictures=pictures), neighbour):
        try:
            anchors = pairing.anchors(data)
        except DataError:
            continue  # no neighbour at all, or fewer stored than asked for: said in tests of their own
        assert len(set(anchors.tolist())) == len(anchors) > 0
        for anchor in anchors.tolist():
            rows = list(pairing.draw(data, anchor, np.random.default_rng(anchor)))
            assert rows == list(pairing.draw(data, anchor, np.random.default_rng(anchor)))
            assert len(rows) == pairing.pictures and all(0 <= row < len(data) for row in rows)
            if isinstance(pairing, NeighbourPairing):
                check_neighbours(pairing, data, anchor, rows)


def check_neighbours(pairing: NeighbourPairing, data: Table, anchor: int, rows: list[int]) -> None:
    assert rows[0] == anchor
    if pairing.missing == "drop":
        assert anchor not in rows[1:]
    elif anchor in rows[1:]:
        assert set(rows) == {anchor}
    distinct = sorted(set(rows))
    if data.has("family"):
        assert len({int(data.column("family")[row]) for row in distinct}) == len(distinct)


def test_batches_carry_relations_whichever_process_makes_them(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "set", groups=5, per_group=2)
    source = FolderSource(str(root), group="folder", captions="sidecar")
    ring = [[((u + step) % 5, 0.9 - 0.1 * step) for step in (1, 2)] for u in range(5)]
    path = mined(tmp_path / "n", ring, hashed=source.training().content_hash)
    views = [View(0, "plain", 16), View(1, "plain", 16)]

    def batches(workers: int = 0, travelled: bool = False) -> list[Batch]:
        data = source.training()
        pairing = NeighbourPairing(path, k=None, symmetric=True, in_batch="positive")
        dataset = ViewDataset(data, pairing, views, {"plain": EvalRecipe()}, seed=3)
        keys = [[(epoch, int(anchor)) for anchor in pairing.anchors(data)] for epoch in range(2)]
        collate = Collate(views, dataset.transforms, data, relations=relations_of(pairing, data))
        if travelled:  # as to a spawned worker
            dataset, collate = pickle.loads(pickle.dumps((dataset, collate)))
        return list(DataLoader(dataset, batch_sampler=keys, collate_fn=collate, num_workers=workers))

    alone = batches()
    for batch in alone:
        assert batch.positives is not None and batch.ignore is None
        units = source.training().group[batch.row.flatten().numpy()]
        lists = [[u for u, _ in row] for row in ring]
        expected = brute_relations(lists, units.tolist(), (2, 10), symmetric=True)
        assert {tuple(pair) for pair in batch.positives[0].T.tolist()} == expected
        assert batch.positives[1].dtype == torch.float32 and len(batch.positives[1]) == len(expected)
        assert torch.equal(batch.group, torch.arange(10).expand(2, -1))
    for others in (batches(workers=2), batches(travelled=True)):
        for ours, theirs in zip(alone, others, strict=True):
            assert torch.equal(ours.row, theirs.row) and torch.equal(ours.views[1], theirs.views[1])
            assert torch.equal(ours.positives[0], theirs.positives[0])  # type: ignore[index]


def test_a_broken_neighbour_is_replaced_by_another_one(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "set", groups=5, per_group=1)
    data = FolderSource(str(root), group="folder", captions="sidecar").training()
    broken = next(root.rglob("caption_1/0.png"))
    broken.write_bytes(b"no picture")
    row = next(r for r in range(5) if "caption_1/" in data.identity(r))
    data = FolderSource(str(root), group="folder", captions="sidecar").training()
    others = [r for r in range(5) if r != row]
    lists = [[(row, 0.9), (others[-1 if own == others[0] else 0], 0.8)] if own != row else [] for own in range(5)]
    pairing = NeighbourPairing(mined(tmp_path / "n", lists, hashed=data.content_hash), sampling="nearest", k=2)
    dataset = ViewDataset(data, pairing, [View(0, "plain", 16), View(1, "plain", 16)], {"plain": EvalRecipe()}, 0)
    for anchor in pairing.anchors(data).tolist():
        sample = dataset[0, anchor]
        assert sample.rows == [anchor, lists[anchor][1][0]]
        assert [(was, used) for was, used, _ in sample.replaced] == [(row, lists[anchor][1][0])]


def test_neighbours_train_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = picture_folder(tmp_path / "set", groups=12, per_group=1)
    arguments = overrides(root, tmp_path / "runs", "pairing=neighbour", "augment=lgslip", "duration.steps=3")
    arguments = [a for a in arguments if not a.startswith(("pairing=siblings", "pairing.pictures"))]
    with pytest.raises(
        DataError, match=r"pairing\.table=null\. Type python scripts/mine_neighbours\.py data=NAME out="
    ):
        run(arguments)
    data = resolve(*compose_config("train", arguments)).source.training()
    units = data.num_groups
    ring = [[((u + 1) % units, 0.9)] for u in range(units)]
    path = mined(tmp_path / "n", ring, hashed=data.content_hash)
    assert run([*arguments, f"pairing.table={path}"])["budget"]["steps"] == 3
    with pytest.raises(ConfigError, match=r"pairing\.in_batch.*negative.*ignore.*positive"):
        run([*arguments, "pairing.in_batch=ignored"])
