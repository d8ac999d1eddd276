"""The embedded set `emoji`: its data, its protocol, its data card."""

from __future__ import annotations

import doctest
import hashlib
import io
import json
import sys
import zipfile
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgrep.data import emoji
from lgrep.data.emoji import EmojiSplit, class_names, designer_credits, open_emoji, rows, subgroup_names
from lgrep.data.table import Table
from lgrep.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
PACKAGE = Path(str(resources.files("lgrep.data.emoji")))
SEEN = {"noto", "notov1", "fluent3d", "fluentflat", "fxemoji"}
PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def table() -> Table:
    return open_emoji()


@pytest.fixture(scope="module")
def pictures(table: Table) -> list[Image.Image]:
    return [Image.open(io.BytesIO(table.read(row))) for row in range(len(table))]


def caption_values(table: Table, name: str) -> list[str]:
    """A caption column, repeated for each picture."""
    values: list[str] = table.caption_column(name)[table.group].tolist()
    return values


def test_counts(table: Table) -> None:
    assert (len(table), table.num_groups) == (8078, 1564)
    assert {name: entry["pictures"] for name, entry in designer_credits().items()} == {
        "noto": 1564,
        "twemoji": 1564,
        "fluent3d": 1562,
        "fluentflat": 1562,
        "notov1": 1179,
        "fxemoji": 647,
    }
    assert Counter(table.column("designer").tolist()) == {n: e["pictures"] for n, e in designer_credits().items()}
    assert set(np.bincount(table.group).tolist()) == {4, 5, 6}


def test_every_picture_decodes_to_64_px_rgb(table: Table, pictures: list[Image.Image]) -> None:
    assert {(picture.format, picture.mode, picture.size) for picture in pictures} == {("WEBP", "RGB", (64, 64))}
    assert set(table.column("width").tolist()) == set(table.column("height").tolist()) == {64}


def test_identical_pictures_of_a_caption_are_kept_once_and_never_cross_a_fold(
    table: Table, pictures: list[Image.Image]
) -> None:
    digests = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
    assert len(set(zip(table.group.tolist(), digests, strict=True))) == len(table)
    folds: dict[str, set[int]] = {}
    for digest, fold in zip(digests, caption_values(table, "fold"), strict=True):
        folds.setdefault(digest, set()).add(int(fold))
    assert len(folds) < len(table), "some captions share pictures, else this test says nothing"
    assert all(len(own) == 1 for own in folds.values())


def test_labels_are_the_29_subgroups_with_15_clusters(table: Table) -> None:
    subgroup, cluster = table.caption_column("subgroup"), table.caption_column("cluster")
    clusters = Counter(name for name, _ in set(zip(subgroup, cluster, strict=True)))
    assert len(class_names()) == 29
    assert class_names() == sorted(class_names())
    assert set(class_names()) <= {name for name, count in clusters.items() if count >= 15}
    label = table.caption_column("label")
    assert (label >= 0).sum() == 862
    expected = [class_names().index(name) if name in class_names() else -1 for name in subgroup]
    assert label.tolist() == expected
    assert table.column("label").tolist() == [expected[group] for group in table.group]
    assert len(subgroup_names()) == 95
    assert [subgroup_names()[i] for i in table.caption_column("subgroup_id")] == subgroup.tolist()


def test_both_fluents_of_a_caption_are_the_only_shared_families(table: Table) -> None:
    families: dict[int, list[tuple[int, str]]] = {}
    for family, group, designer in zip(
        table.column("family").tolist(), table.group.tolist(), table.column("designer").tolist(), strict=True
    ):
        families.setdefault(family, []).append((group, designer))
    shared = [members for members in families.values() if len(members) > 1]
    assert len(shared) == 1562
    for members in shared:
        assert {designer for _, designer in members} == {"fluent3d", "fluentflat"}
        assert len({group for group, _ in members}) == 1


def test_ids_licences_and_embeddings(table: Table) -> None:
    codes, designers = caption_values(table, "id"), table.column("designer").tolist()
    assert table.column("id").tolist() == [f"{c}/{d}.webp" for c, d in zip(codes, designers, strict=True)]
    assert table.column("licence").tolist() == [designer_credits()[designer]["licence"] for designer in designers]
    for char, code in zip(table.caption_column("char"), table.caption_column("id"), strict=True):
        assert "-".join(f"{ord(point):04x}" for point in char if ord(point) != 0xFE0F) == code
    embedding = table.caption_column("embedding").astype(np.float64)
    assert embedding.shape == (1564, 384)
    assert np.abs(np.linalg.norm(embedding, axis=1) - 1).max() < 1e-3
    text = table.caption_column("text").tolist()
    nearest = embedding[text.index("dog")] @ embedding.T
    assert text[int(np.argsort(-nearest)[1])] in {"dog face", "guide dog", "service dog", "poodle", "hot dog"}


def test_clusters_never_cross_folds(table: Table) -> None:
    pairs = set(zip(table.caption_column("cluster"), table.caption_column("fold").tolist(), strict=True))
    assert len(pairs) == len({cluster for cluster, _ in pairs}) == 1206
    assert {fold for _, fold in pairs} == set(range(5))


@pytest.mark.parametrize(("test_fold", "val_fold"), [(0, 1), (3, 0), (4, 2)])
def test_parts_are_disjoint_in_captions_and_cover_the_set(table: Table, test_fold: int, val_fold: int) -> None:
    parts = {part: rows(table, part, "all", test_fold=test_fold, val_fold=val_fold) for part in PARTS}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(table)))
    clusters = {part: set(np.array(caption_values(table, "cluster"))[parts[part]]) for part in PARTS}
    assert not (clusters["train"] & clusters["test"] or clusters["train"] & clusters["val"])
    assert not clusters["val"] & clusters["test"]
    fold = np.array(caption_values(table, "fold"))
    assert set(fold[parts["test"]]) == {test_fold}
    assert set(fold[parts["val"]]) == {val_fold}
    joined = rows(table, "train+val", "all", test_fold=test_fold, val_fold=val_fold)
    assert joined.tolist() == sorted([*parts["train"], *parts["val"]])
    assert rows(table, "all", "all", test_fold=test_fold, val_fold=val_fold).tolist() == list(range(len(table)))


def test_twemoji_is_in_no_training_row(table: Table) -> None:
    designer = table.column("designer")
    default = rows(table)
    assert default.dtype == np.int64
    assert set(designer[default]) == SEEN
    assert default.tolist() == rows(table, "train", "seen").tolist()
    assert set(designer[rows(table, "train", "unseen")]) == {"twemoji"}
    both = sorted([*rows(table, "train", "seen"), *rows(table, "train", "unseen")])
    assert both == rows(table, "train", "all").tolist()


def test_labelled_and_named_designers(table: Table) -> None:
    labelled = rows(table, "test", labelled=True)
    assert labelled.tolist() == [row for row in rows(table, "test") if table.column("label")[row] >= 0]
    for part in PARTS:
        assert set(table.column("label")[rows(table, part, labelled=True)]) == set(range(29))
    noto = rows(table, "test", "noto")
    assert noto.tolist() == rows(table, "test", ("noto",)).tolist()
    assert set(table.column("designer")[noto]) == {"noto"}
    assert len(set(table.group[noto])) == len(noto) == 305


def test_a_part_of_a_selection(table: Table) -> None:
    part = table.select(rows(table, "train+val", "all"))
    ids = [part.identity(row) for row in rows(part, "val", "unseen")]
    assert ids == [table.identity(row) for row in rows(table, "val", "unseen")]
    assert len(rows(part, "test", "all")) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": "tets"}, r"did you mean 'test'.*train\+val"),
        ({"designers": "twemogi"}, r"twemogi.*seen, unseen, all.*fxemoji"),
        ({"designers": ("noto", "apple")}, "apple.*twemoji"),
        ({"designers": ()}, "choose one of"),
        ({"test_fold": 5}, "test_fold=5.*0 to 4"),
        ({"test_fold": 1}, "test_fold and val_fold are both 1"),
    ],
)
def test_a_wrong_name_is_answered_with_the_allowed_ones(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmojiSplit(**arguments)  # type: ignore[arg-type]


def test_another_set_has_no_protocol(table: Table) -> None:
    other = Table(table.pictures.drop(["designer"]), table.captions, table.store, "other", "")
    with pytest.raises(DataError, match="'other'"):
        rows(other)


def test_content_hash_is_that_of_the_files(table: Table) -> None:
    about = json.loads((PACKAGE / "set/set.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256()
    with zipfile.ZipFile(PACKAGE / "set/shard-00000.zip") as archive:
        assert archive.namelist() == table.column("id").tolist()
        for name in archive.namelist():
            digest.update(hashlib.sha256(archive.read(name)).digest())
    for name in ("pictures.arrow", "captions.arrow"):
        digest.update((PACKAGE / "set" / name).read_bytes())
    assert about["content_hash"] == table.content_hash == digest.hexdigest()[:16]
    assert (about["pictures"], about["captions"]) == (len(table), table.num_groups)


def test_splits_are_those_that_the_script_makes(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from emoji_splits import Caption, Drawing, make_splits

    fields = ("id", "char", "text", "names", "keywords", "topic", "subgroup")
    captions = [Caption(*values) for values in zip(*(table.caption_column(f) for f in fields), strict=True)]
    designer = table.column("designer")
    drawings = [Drawing(int(table.group[row]), designer[row], table.read(row)) for row in range(len(table))]
    splits = make_splits(captions, drawings, table.caption_column("embedding"))
    codes = table.caption_column("id").tolist()
    assert [splits.fold[code] for code in codes] == table.caption_column("fold").tolist()
    assert [splits.cluster[code] for code in codes] == table.caption_column("cluster").tolist()
    assert splits.classes == class_names()
    sys.modules.pop("emoji_splits")


def test_package_data_stay_small_and_carry_their_licences() -> None:
    size = sum(path.stat().st_size for path in (PACKAGE / "set").iterdir())
    assert size <= 10_500_000
    notice = (PACKAGE / "NOTICE.md").read_text(encoding="utf-8")
    about = json.loads((PACKAGE / "set/set.json").read_text(encoding="utf-8"))
    for name, entry in designer_credits().items():
        assert f"`{name}`" in notice
        assert entry["source"] in notice
        assert about["licences"][entry["licence"]] in notice or entry["licence"] == "MIT"
    assert "Permission is hereby granted, free of charge" in notice
    assert "Apache License" in (PACKAGE / "LICENSE-Apache-2.0.txt").read_text()


def test_docstring_examples() -> None:
    assert doctest.testmod(emoji).failed == 0


def card_rows(heading: str) -> list[list[str]]:
    """The cells of the data card's table with this header line, without backquotes."""
    lines = (ROOT / "docs/data_card_emoji.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(heading) + 2
    body = lines[start : lines.index("", start) if "" in lines[start:] else None]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in body]


def test_data_card_states_the_facts(table: Table) -> None:
    label = table.caption_column("label")
    sizes = np.bincount(label[label >= 0])
    drawn = Counter(np.bincount(table.group).tolist())
    facts = {
        "captions": table.num_groups,
        "pictures": len(table),
        **{f"captions with {count} pictures": drawn[count] for count in (4, 5, 6)},
        "designs (the two of Fluent count once per caption)": len(set(table.column("family").tolist())),
        "topics": len(set(table.caption_column("topic"))),
        "subgroups": len(subgroup_names()),
        "classes of the labelled task": len(class_names()),
        "labelled captions": int(sizes.sum()),
        "labelled pictures": int((table.column("label") >= 0).sum()),
        "smallest class (captions)": int(sizes.min()),
        "largest class (captions)": int(sizes.max()),
        "clusters of near-duplicate captions": len(set(table.caption_column("cluster"))),
        "largest cluster (captions)": Counter(table.caption_column("cluster").tolist()).most_common(1)[0][1],
        **{f"pictures under {name}": n for name, n in Counter(table.column("licence").tolist()).items()},
    }
    assert {name: int(number) for name, number in card_rows("| fact | number |")} == facts


def test_data_card_states_topics_designers_folds_and_parts(table: Table) -> None:
    topics = {name: int(count) for name, count in card_rows("| topic | captions |")}
    assert topics == Counter(table.caption_column("topic").tolist())
    designers = card_rows("| designer | pictures | licence | credit |")
    expected = [[name, str(e["pictures"]), e["licence"], e["credit"]] for name, e in designer_credits().items()]
    assert designers == expected
    fold = table.caption_column("fold")
    folds = [
        [int(cell) for cell in row[:3]]
        for row in card_rows("| fold | captions | pictures | part in single-split runs |")
    ]
    assert folds == [[i, int((fold == i).sum()), int((fold[table.group] == i).sum())] for i in range(5)]
    for captions, designer, *numbers in card_rows(
        "| captions | designers | pictures | labelled pictures | captions in it |"
    ):
        part = rows(table, captions, designer)
        labelled = rows(table, captions, designer, labelled=True)
        assert [int(number) for number in numbers] == [len(part), len(labelled), len(set(table.group[part]))]
