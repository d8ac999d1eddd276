from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from lgrep.data.pairings import SelfPairing, SiblingPairing
from lgrep.data.stores import FolderStore
from lgrep.data.table import Table
from lgrep.errors import DataError


def table(groups: list[int], families: list[int] | None = None) -> Table:
    columns = {"id": [str(i) for i in range(len(groups))], "group": pa.array(groups, pa.int32())}
    if families:
        columns["family"] = pa.array(families, pa.int32())
    captions = pa.table({"id": [str(i) for i in range(max(groups) + 1)], "text": ["x"] * (max(groups) + 1)})
    return Table(pa.table(columns), captions, FolderStore(None, []), "made", "")  # type: ignore[arg-type]


def draws(pairing: SiblingPairing, data: Table, anchor: int, times: int = 400) -> list[tuple[int, ...]]:
    return [tuple(pairing.draw(data, anchor, np.random.default_rng(i))) for i in range(times)]


def test_self_pairing_is_one_anchor_per_picture() -> None:
    data, pairing = table([0, 0, 1]), SelfPairing()
    assert pairing.anchors(data).tolist() == [0, 1, 2]
    assert pairing.draw(data, 2, np.random.default_rng()) == [2]
    assert [pairing.group(data, a) for a in (0, 1, 2)] == [0, 1, 2]


def test_siblings_are_distinct_and_uniform() -> None:
    data, pairing = table([0, 0, 0, 0, 0, 1]), SiblingPairing(pictures=3)
    drawn = draws(pairing, data, 0, 1000)
    assert all(len(set(rows)) == 3 and max(rows) < 5 for rows in drawn)
    for place in range(3):
        counts = Counter(rows[place] for rows in drawn)
        assert all(150 < counts[row] < 250 for row in range(5))


def test_a_short_caption_repeats_its_pictures_evenly() -> None:
    for rows in draws(SiblingPairing(pictures=5), table([0, 0]), 0, 50):
        assert sorted(Counter(rows).values()) == [2, 3]


def test_at_most_one_picture_of_a_family() -> None:
    data = table([0, 0, 0, 0, 1, 1], families=[7, 7, 8, 9, 10, 10])
    drawn = draws(SiblingPairing(pictures=3), data, 0)
    assert all(len({0, 1} & set(rows)) == 1 for rows in drawn)
    first = Counter(({0, 1} & set(rows)).pop() for rows in drawn)
    assert 150 < first[0] < 250
    # even when pictures have to be repeated, the other member of the family stays out
    assert all(len(set(rows)) == 1 for rows in draws(SiblingPairing(pictures=3), data, 1, 20))


def test_shortage_policies(capsys: pytest.CaptureFixture[str]) -> None:
    data = table([0, 0, 0, 1, 2, 2], families=[0, 1, 2, 3, 4, 4])
    short = "note: made: 2 of 3 captions have fewer than pairing.pictures=2 pictures"
    assert SiblingPairing(pictures=2).anchors(data).tolist() == [0, 1, 2]
    assert capsys.readouterr().err == (
        f"{short} (the most is 3); theirs are shown again with other crops (pairing.shortage=repeat)\n"
    )
    assert SiblingPairing(pictures=2, shortage="drop").anchors(data).tolist() == [0]
    assert capsys.readouterr().err == f"{short} and are left out (pairing.shortage=drop)\n"
    with pytest.raises(DataError, match=r"2 of 3 captions.*Type pairing\.pictures=1, or pairing\.shortage=repeat or"):
        SiblingPairing(pictures=2, shortage="refuse").anchors(data)
    for shortage in ("drop", "refuse"):
        with pytest.raises(DataError, match=r"no caption has pairing\.pictures=4 .*Type pairing\.pictures=3 or"):
            SiblingPairing(pictures=4, shortage=shortage).anchors(data)  # type: ignore[arg-type]
    assert SiblingPairing(pictures=1, shortage="refuse").anchors(data).tolist() == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_siblings_without_any_sibling_say_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    data = table([0, 1, 2])
    assert SiblingPairing(pictures=4).anchors(data).tolist() == [0, 1, 2]
    said = capsys.readouterr().err
    assert said.startswith("note: made: every caption has one picture, so that pairing=siblings shows it 4 times like")
    assert "pairing=neighbour" in said and said.count("note:") == 1
    with pytest.raises(DataError, match=r"no caption has pairing\.pictures=4 .*Type pairing\.pictures=1 or"):
        SiblingPairing(pictures=4, shortage="refuse").anchors(data)


def test_groups_mark_captions() -> None:
    data, pairing = table([0, 0, 1]), SiblingPairing(pictures=2)
    assert pairing.group(data, 1) == 1
    assert list(pairing.substitutes(data, 0, drawn=[1])) == [0, 1]


def test_a_substitute_is_never_of_a_family_in_use() -> None:
    data, pairing = table([0, 0, 0, 0], families=[7, 7, 8, 9]), SiblingPairing(pictures=2)
    assert list(pairing.substitutes(data, 0, drawn=[0])) == [0, 2, 3]
    assert list(pairing.substitutes(data, 0, drawn=[])) == [0, 1, 2, 3]
