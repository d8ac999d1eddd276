from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made import encoded, picture_folder
from PIL import Image

from lgrep.data.inspection import Inspection, Options, inspect_pairs, write_page
from lgrep.data.inspection.page import histogram_svg, page
from lgrep.data.inspection.statistics import Histogram, edges_of, equal_captions, histogram, hubs, similarities
from lgrep.data.neighbours import NeighboursAbout, write_neighbours
from lgrep.data.pairings import NeighbourPairing, SelfPairing, SiblingPairing
from lgrep.data.sources import FolderSource
from lgrep.data.table import Table
from lgrep.data.transforms import EvalRecipe, Recipe
from lgrep.data.views import View
from lgrep.errors import DataError

NASTY = '<script>alert("x")</script> & <img src=http://evil.example/a.png> \x00 \u202e \ud83d </p>'
VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Every tag is closed in order; collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.content: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.content.append(data)


def checked(content: str) -> Checker:
    checker = Checker()
    checker.feed(content)
    checker.close()
    assert not checker.open
    assert "script" not in checker.tags
    assert all(address.startswith("data:image/jpeg;base64,") for address in checker.addresses)
    return checker


class MemoryStore:
    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def read(self, row: int) -> bytes:
        return self.files[row]

    def locate(self, row: int) -> str:
        return f"memory {row}"

    def subset(self, rows: np.ndarray[Any, Any]) -> MemoryStore:
        return MemoryStore([self.files[row] for row in rows])


def table(
    groups: list[int], texts: list[str], labels: list[int] | None = None, files: list[bytes] | None = None
) -> Table:
    columns: dict[str, Any] = {"id": [f"id{i}" for i in range(len(groups))], "group": pa.array(groups, pa.int32())}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int32())
    captions = pa.table({"id": [str(i) for i in range(len(texts))], "text": pa.array(texts, pa.string())})
    files = files or [encoded(i, "JPEG") for i in range(len(groups))]
    return Table(pa.table(columns), captions, MemoryStore(files), "made", "hash")


def inspected(data: Table, pairing: Any, **options: Any) -> Inspection:
    views = [View(0, "strong", 24), View(pairing.pictures - 1, "plain", 16)]
    transforms = {"strong": Recipe(), "plain": EvalRecipe()}
    return inspect_pairs(data, pairing, views, transforms, 0, Options(**options))


def test_what_data_say_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    nasty = NASTY.replace("\ud83d", "")
    data = table([0, 0, 1, 1], [nasty, "</title></style>" + "long " * 200])
    found = inspected(data, SiblingPairing(pictures=2), groups=2)
    size = write_page(found, {"data": NASTY, "pairing": "siblings"}, tmp_path / "deep" / "pairs.html")
    written = (tmp_path / "deep" / "pairs.html").read_bytes()
    assert len(written) == size
    seen = checked(written.decode())
    assert any('<script>alert("x")</script>' in part for part in seen.content)
    assert "\x00" not in written.decode() and "\u202e" not in written.decode()
    assert not list((tmp_path / "deep").glob(".*"))


def test_pictures_are_those_of_the_table(tmp_path: Path) -> None:
    data = table([0, 0, 0, 1, 1, 1], ["a", "b"], files=[encoded(i) for i in range(6)])
    found = inspected(data, SiblingPairing(pictures=2), groups=2)
    for group in found.groups:
        assert len(group.pictures) == 2 and len(group.views) == 2
        for picture in group.pictures:
            row = int(picture.identity.removeprefix("id"))
            assert data.caption_row(row) == group.anchor and picture.captions == [data.caption(row)]
            assert picture.jpeg is not None
            shown = np.asarray(Image.open(io.BytesIO(picture.jpeg)), np.float32)
            stored = np.asarray(Image.open(io.BytesIO(data.read(row))).convert("RGB"), np.float32)
            assert np.abs(shown - stored).mean() < 12  # JPEG
        assert [Image.open(io.BytesIO(view.jpeg or b"")).size for view in group.views] == [(24, 24), (16, 16)]
        assert group.views[1].identity.endswith(group.pictures[1].identity)
    encoded_pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", page(found, {}))
    assert len(encoded_pictures) == 8
    assert Image.open(io.BytesIO(base64.b64decode(encoded_pictures[0]))).format == "JPEG"


def test_views_are_what_a_method_gets() -> None:
    """A plain view of a flat picture keeps its colour through normalising and back."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 100, 50)).save(buffer, "PNG")
    data = table([0, 1], ["a", "b"], files=[buffer.getvalue()] * 2)
    found = inspect_pairs(data, SelfPairing(), [View(0, "plain", 16)], {"plain": EvalRecipe()}, 0, Options())
    shown = np.asarray(Image.open(io.BytesIO(found.groups[0].views[0].jpeg or b"")), np.float32)
    assert np.abs(shown - np.array([200, 100, 50])).max() <= 4


def test_self_pairs_have_one_picture(tmp_path: Path) -> None:
    found = inspected(table([0, 0, 1], ["a", "b"], labels=[0, 0, 1]), SelfPairing(), views=False)
    assert found.anchors == 3 and [len(group.pictures) for group in found.groups] == [1, 1, 1]
    assert not any(group.views for group in found.groups)
    assert found.labels is not None and found.labels.pairs == 0
    assert "no pair of different ones" in page(found, {})


def test_pairs_are_those_of_the_first_epoch() -> None:
    from lgrep.data.dataset import ViewDataset

    data, pairing = table([0] * 5 + [1] * 5, ["a", "b"]), SiblingPairing(pictures=2)
    found = inspected(data, pairing)
    dataset = ViewDataset(data, pairing, [View(0, "plain", 8), View(1, "plain", 8)], {"plain": EvalRecipe()}, 0)
    for group in found.groups:
        assert [picture.identity for picture in group.pictures] == [f"id{row}" for row in dataset[0, group.anchor].rows]


def test_equal_files_are_found_where_they_are() -> None:
    files = [encoded(i) for i in (0, 0, 1, 2, 0, 3)]
    data = table([0, 0, 1, 1, 2, 2], ["a", "b", "c"], files=[*files[:5], b""])
    found = inspected(data, SiblingPairing(pictures=2), duplicates="all")
    assert found.duplicates is not None
    assert (found.duplicates.read, found.duplicates.unreadable) == (6, 0)
    assert (found.duplicates.files.kinds, found.duplicates.files.members) == (1, 3)
    assert found.duplicates.files.examples == [("id0 = id1 = id4", 3)]
    assert found.duplicates.pairs == pytest.approx(1 / 3)
    assert inspected(data, SiblingPairing(pictures=2), duplicates="none").duplicates is None


def test_broken_pictures_are_named_in_their_place() -> None:
    data = table([0, 0, 1, 1], ["a", "b"], files=[b"", encoded(1), encoded(2), encoded(3)])
    found = inspected(data, SiblingPairing(pictures=2))
    broken = [picture for group in found.groups for picture in group.pictures if picture.jpeg is None]
    assert [(picture.identity, picture.problem) for picture in broken] == [("id0", "empty file")]
    notes = [view.problem for group in found.groups for view in group.views]
    assert "in place of id0" in notes
    checked(page(found, {}))
    nothing = inspected(table([0, 1], ["a", "b"], files=[b"", b""]), SelfPairing())
    assert "cannot be read" in nothing.groups[0].views[0].problem
    checked(page(nothing, {}))


def test_a_pairing_without_anchors_is_refused() -> None:
    class Nothing(SelfPairing):
        def anchors(self, table: Table) -> np.ndarray[Any, Any]:
            return np.zeros(0, np.int64)

    with pytest.raises(DataError, match="no anchor"):
        inspected(table([0], ["a"]), Nothing())


def test_equal_captions_by_hand() -> None:
    data = table([0, 1, 2, 3, 4], ["dog", "cat", "dog", "", "dog"])
    found = equal_captions(data)
    assert (found.kinds, found.members, found.examples) == (1, 3, [("dog", 3)])
    assert inspected(data, SelfPairing()).empty_captions == 1


def test_labels_agree_as_often_as_counted() -> None:
    data = table([0, 0, 1, 1, 2, 2], ["a", "b", "c"], labels=[0, 0, 0, 1, -1, 1])
    found = inspected(data, SiblingPairing(pictures=2)).labels
    assert found is not None
    assert (found.pairs, found.agreeing) == (2, 0.5)  # the third pair has a picture without a label
    assert found.chance == pytest.approx((3 / 5) ** 2 + (2 / 5) ** 2)
    assert found.labelled == pytest.approx(5 / 6)
    assert inspected(table([0, 0], ["a"]), SelfPairing()).labels is None
    assert inspected(table([0, 0], ["a"], labels=[-1, -1]), SelfPairing()).labels is None


INDICES = np.array([[1, 2], [0, -1], [0, 1], [0, 2]])
SIMILARITIES = np.array([[0.9, 0.3], [0.9, 0.0], [0.5, 0.4], [0.25, 0.1]])


def neighbour_pairing(folder: Path, **settings: Any) -> NeighbourPairing:
    about = NeighboursAbout(unit="caption", table="made", content_hash="hash")
    path = write_neighbours(folder / "neighbours", INDICES, SIMILARITIES, about)
    return NeighbourPairing(str(path), **settings)


def test_hubs_and_similarities_of_the_used_neighbours(tmp_path: Path) -> None:
    edges = edges_of(neighbour_pairing(tmp_path, k=1))
    assert edges is not None
    assert [(unit, degree) for unit, degree in hubs(edges).top] == [(0, 3), (1, 1)]
    assert (hubs(edges).never, hubs(edges).units, hubs(edges).edges, hubs(edges).share) == (2, 4, 4, 1.0)
    assert hubs(edges, most=1).share == 0.75
    both = edges_of(NeighbourPairing(str(tmp_path / "neighbours"), k=2, threshold=0.3))
    assert both is not None
    assert hubs(both).edges == 5  # 0.9 0.3 0.9 0.5 0.4, with rounding to single precision
    drawn = similarities(both, bins=2)
    assert drawn is not None and drawn.counts == [3, 2]
    assert drawn.edges == pytest.approx([0.3, 0.6, 0.9])
    assert edges_of(SelfPairing()) is None and edges_of(NeighbourPairing()) is None


def test_neighbours_are_shown_with_their_similarity(tmp_path: Path) -> None:
    data = table([0, 1, 2, 3], ["red", "green", "blue", "grey"])
    found = inspected(data, neighbour_pairing(tmp_path, k=1))
    seen = {group.anchor: group.pictures[1] for group in found.groups}
    assert {anchor: picture.identity for anchor, picture in seen.items()} == {0: "id1", 1: "id0", 2: "id0", 3: "id0"}
    assert {anchor: picture.similarity for anchor, picture in seen.items()} == pytest.approx({0: 0.9, 1: 0.9, 2: 0.5, 3: 0.25})  # fmt: skip
    assert all(group.pictures[0].similarity is None for group in found.groups)
    assert found.hub_texts == ["red", "green"]
    content = page(found, {})
    checked(content)
    assert "similarity 0.250" in content and "take 100 % of 4 edges" in content and "75 %" in content


def test_a_symmetric_edge_has_the_similarity_of_its_other_end(tmp_path: Path) -> None:
    data = table([0, 1, 2, 3], ["red", "green", "blue", "grey"])
    edges = edges_of(neighbour_pairing(tmp_path, k=1, symmetric=True))
    directed = edges_of(NeighbourPairing(str(tmp_path / "neighbours"), k=1))
    assert edges is not None and directed is not None
    assert edges.similarity(data, 0, 3) == pytest.approx(0.25)
    assert directed.similarity(data, 0, 3) is None and edges.similarity(data, 1, 2) is None


@pytest.mark.parametrize(
    ("values", "edges", "counts"),
    [
        ([2, 2, 4], [2, 3, 4, 5], [2, 0, 1]),
        ([7], [7, 8], [1]),
        ([0.0, 1.0, np.nan, -np.inf], [0.0, 0.5, 1.0], [1, 1]),
    ],
)
def test_histograms(values: list[float], edges: list[float], counts: list[int]) -> None:
    found = histogram(np.array(values), bins=2 if isinstance(values[0], float) else 30)
    assert found is not None and (found.edges, found.counts) == (edges, counts)


def test_no_histogram_of_nothing() -> None:
    assert histogram(np.zeros(0)) is None and histogram(np.array([np.nan])) is None
    flat = histogram(np.full(3, 0.5))
    assert flat is not None and sum(flat.counts) == 3


def test_bars_are_as_tall_as_their_counts() -> None:
    drawn = histogram_svg(Histogram([0.0, 1.0, 2.0, 3.0], [10, 0, 5], whole=True), "x", height=136)
    heights = [float(value) for value in re.findall(r'height="([\d.]+)"><title>', drawn)]
    assert heights == [100.0, 0.0, 50.0]
    assert "<title>x 2: 5</title>" in drawn
    checked(drawn)


def test_a_real_folder(tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "pictures")
    data = FolderSource(str(root), group="folder", labels="folder", captions="sidecar", probe_share=0.0).training()
    found = inspected(data, SiblingPairing(pictures=3), groups=3)
    assert len(found.groups) == 3 and found.captions == 6 and found.pictures == 18
    assert found.per_caption is not None and found.per_caption.counts == [6] and found.per_caption.edges == [3.0, 4.0]
    assert found.labels is not None and found.labels.agreeing == 1.0
    assert found.sampled == 6
    checked(page(found, {"data": "folder"}))
