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


def test_shortage_policies() -> None:
    data = table([0, 0, 0, 1, 2, 2], families=[0, 1, 2, 3, 4, 4])
    assert SiblingPairing(pictures=2).anchors(data).tolist() == [0, 1, 2]
    assert SiblingPairing(pictures=2, shortage="drop").anchors(data).tolist() == [0]
    with pytest.raises(DataError, match=r"2 of 3 captions.*pairing\.pictures=1"):
        SiblingPairing(pictures=2, shortage="refuse").anchors(data)
    with pytest.raises(DataError, match=r"no caption has 4 pictures.*pairing\.pictures=3"):
        SiblingPairing(pictures=4, shortage="drop").anchors(data)


def test_groups_mark_captions() -> None:
    data, pairing = table([0, 0, 1]), SiblingPairing(pictures=2)
    assert pairing.group(data, 1) == 1
    assert list(pairing.substitutes(data, 0)) == [0, 1]
