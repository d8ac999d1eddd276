"""A user's own pictures: folders, CSV files, prepared sets, sets of other libraries, and a catalogue of one's own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from made import encoded
from PIL import Image

from lgrep.data.preparing import prepare
from lgrep.data.sources import FolderSource
from lgrep.errors import ConfigError, DataError
from lgrep.evaluation.contract import EvaluationSet
from lgrep.evaluation.datasets.catalogue import build_set, catalogue, expand
from lgrep.evaluation.datasets.folder import FolderSet
from lgrep.evaluation.datasets.hf import HuggingFaceSet
from lgrep.evaluation.datasets.missing import MissingDataset


def write(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(number))


def sizes(made: EvaluationSet) -> dict[str, int]:
    return {part: len(rows.labels) for part, rows in made.parts().items()}


def said(made: EvaluationSet, word: str) -> bool:
    return any(word in note for note in made.notes)


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (("train", "val", "test"), {"train": 4, "validation": 4, "test": 4}),
        (("train", "valid"), {"train": 4, "test": 4}),
        (("Training", "Test"), {"train": 4, "test": 4}),
        (("test",), {"test": 4}),
    ],
)
def test_folders_of_parts(folders: tuple[str, ...], parts: dict[str, int], tmp_path: Path) -> None:
    write(tmp_path, *(f"{part}/{kind}/{i}.png" for part in folders for kind in ("red_fox", "hen") for i in range(2)))
    made = FolderSet(str(tmp_path))
    assert sizes(made) == parts and made.class_names == ("hen", "red fox")
    assert made.parts()["test"].labels.tolist() == [0, 0, 1, 1] and made.parts() is not None
    assert said(made, "there is no folder test") == (folders == ("train", "valid"))
    assert made.parts()["test"] is made.parts()["test"]


def test_one_folder_is_split_within_classes(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(f"a/{i}.png" for i in range(10)),
        *(f"b/deep/{i}.png" for i in range(5)),
        "c/0.png",
        "d/0.png",
        "d/1.png",
    )
    made = FolderSet(str(tmp_path))
    assert sizes(made) == {"train": 6 + 3 + 1 + 1, "validation": 2 + 1, "test": 2 + 1 + 1}
    names = {part: {rows.pictures.identity(i) for i in range(len(rows.labels))} for part, rows in made.parts().items()}
    assert len(set.union(*names.values())) == 18
    other = FolderSet(str(tmp_path), split_seed=1)
    assert other.data_hash != made.data_hash and FolderSet(str(tmp_path)).data_hash == made.data_hash
    assert made.settings["seed"] == 0 and said(made, "drawn within every class")
    write(tmp_path, "a/10.png")  # one more picture: another set
    assert FolderSet(str(tmp_path)).data_hash != made.data_hash


def test_statistics_are_those_of_the_training_pictures(tmp_path: Path) -> None:
    for part, value in (("train", 51), ("test", 255)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (80, 70), (value, 0, 255)).save(tmp_path / part / name / "x.png")
    made = FolderSet(str(tmp_path))
    assert made.mean == pytest.approx((0.2, 0.0, 1.0)) and min(made.std) > 0
    assert FolderSet(str(tmp_path), statistics="imagenet").mean == (0.485, 0.456, 0.406)


def test_a_csv_of_paths(tmp_path: Path) -> None:
    write(tmp_path, *(f"p/{i}.png" for i in range(4)))
    rows = "Path;Class;Split\np/0.png;10;train\np/1.png;9;train\np/2.png;10;test\n\np/3.png;9;dev\n"
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    made = FolderSet(str(tmp_path), csv="list.csv")
    assert sizes(made) == {"train": 2, "validation": 1, "test": 1} and made.class_names == ("9", "10")
    assert made.parts()["train"].labels.tolist() == [1, 0]
    (tmp_path / "list.csv").write_bytes(rows.encode("utf-16"))
    assert FolderSet(str(tmp_path), csv="list.csv").parts()["train"].labels.tolist() == [1, 0]


def test_several_classes_and_several_captions(tmp_path: Path) -> None:
    write(tmp_path, *(f"{i}.png" for i in range(3)))
    (tmp_path / "labels.csv").write_text("file,label,part\n0.png,cat|dog,train\n1.png,dog,test\n2.png,cat|hen,test\n")
    made = FolderSet(str(tmp_path))
    assert made.metric == "map11" and made.parts()["test"].labels.tolist() == [
        [False, True, False],
        [True, False, True],
    ]
    (tmp_path / "labels.csv").write_text('file,caption,part\n0.png,one,test\n0.png,"two, too",test\n1.png,three,test\n')
    made = FolderSet(str(tmp_path))
    part = made.parts()["test"]
    assert made.num_classes == 0 and part.labels.tolist() == [-1, -1]
    assert part.captions == [["one", "two, too"], ["three"]] and not said(made, "twice")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,label\n0.png,a\n1.png,\n", r"line 3 has no label \(1.png\)"),
        ("file,label\n0.png,a\n1.png\n", "line 3 has 1 columns, the first line has 2"),
        ("name,label\n0.png,a\n", "names no column file; it reads name,label"),
        ("file,label\n0.png,a\n0.png,b\n1.png,a\n", "0.png is listed with the label a and with b"),
        ("file,label,part\n0.png,a,train\n0.png,a,test\n", "is listed with the part train and with test"),
        ("file,label,part\n0.png,a,train\n1.png,a,holdout\n", "the part 'holdout' is none of"),
        ("file,label,part\n0.png,a,train\n1.png,a,train\n", "no picture of the test part"),
        (
            "file,label,part\n0.png,a,test\n9.png,a,test\n",
            r"1 of 2 listed pictures are not there: 9.png \(No such file",
        ),
        ("", "is empty"),
    ],
)
def test_faults_of_a_csv_are_named(rows: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, "0.png", "1.png")
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(DataError, match=message):
        FolderSet(str(tmp_path))


def test_other_encodings_are_refused_with_advice(tmp_path: Path) -> None:
    write(tmp_path, "0.png")
    (tmp_path / "labels.csv").write_bytes("file,label\n0.png,caf\u00e9\n".encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8 text.*iconv"):
        FolderSet(str(tmp_path))


def test_faults_that_are_survived_are_said(tmp_path: Path) -> None:
    write(tmp_path, "train/a/0.png", "train/a/1.png", "test/a/2.png", "test/new/3.png", "test/new/4.png")
    (tmp_path / "train/empty").mkdir()
    (tmp_path / "train/a/broken.png").write_bytes(b"")
    made = FolderSet(str(tmp_path))
    assert said(made, "1 class folders of train hold no picture: empty")
    assert said(made, "broken.png (empty file)")
    assert said(made, "1 classes (new) have 2 test pictures and none to learn from")
    assert made.class_names == ("a", "new")
    write(tmp_path, *(f"more/{i}.png" for i in range(12)))
    rows = [f"more/{i}.png,a,{'train' if i % 2 else 'test'}" for i in range(13)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,part", *rows, rows[0], rows[1]]))
    made = FolderSet(str(tmp_path))
    assert said(made, "2 pictures are listed twice and counted once") and said(
        made, "1 of 13 listed pictures are not there"
    )
    assert sizes(made) == {"train": 6, "test": 6}


@pytest.mark.parametrize(
    "make", [lambda root: None, lambda root: write(root, "0.png"), lambda root: (root / "a").mkdir()]
)
def test_folders_without_classes(make, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match="no pictures in class folders"):
        FolderSet(str(tmp_path))
    with pytest.raises(DataError, match=r"options\.folder\.root=.*nowhere does not exist"):
        FolderSet(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"options\.folder\.root: a value is needed"):
        build_set("folder")


def test_a_prepared_set_with_labels(tmp_path: Path) -> None:
    write(tmp_path / "p", *(f"{kind}/{i}.png" for kind in "ab" for i in range(5)))
    source = FolderSource(str(tmp_path / "p"), labels="folder", probe_share=0)
    prepare(source.training(), tmp_path / "set")
    made = FolderSet(str(tmp_path / "set"), class_names=["ant", "bee"])
    assert sizes(made) == {"train": 6, "validation": 2, "test": 2} and made.class_names == ("ant", "bee")
    Image.open(io.BytesIO(made.parts()["test"].pictures[0])).load()
    with pytest.raises(DataError, match="3 class_names for 2 classes"):
        FolderSet(str(tmp_path / "set"), class_names=["x", "y", "z"])


def test_a_catalogue_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "conf/dataset").mkdir(parents=True)
    write(tmp_path / "p", *(f"{kind}/{i}.png" for kind in "ab" for i in range(5)))
    text = f"_target_: lgrep.evaluation.datasets.folder.FolderSet\nroot: {tmp_path}/p\ntemplates: ['my {{}}']\n"
    (tmp_path / "conf/dataset/mine.yaml").write_text(text)
    place = [f"file://{tmp_path}/conf"]
    assert "mine" in catalogue(place) and "mine" not in catalogue() and "mine" in expand("all", place)
    for made in (build_set("mine", place), build_set(str(tmp_path / "conf/dataset/mine.yaml"))):
        assert made.name == "mine" and made.templates == ("my {}",)
    assert build_set("mine", place, test=0.4).data_hash != build_set("mine", place).data_hash
    with pytest.raises(ConfigError, match=r"options\.mine\.tset: .*did you mean 'test'"):
        build_set("mine", place, tset=0.4)
    with pytest.raises(ConfigError, match="must have one {}"):
        build_set("mine", place, templates=["no place"])
    (tmp_path / "conf/dataset/odd.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="odd"):
        build_set("odd", place)


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'aircraft'"):
        build_set("aircaft")
    with pytest.raises(ConfigError, match="no such file"):
        build_set("nothing.yaml")
    everything = expand(["digits", "all", "digits"])
    assert everything[0] == "digits" and len(everything) == len(set(everything)) > 40
    assert not {"folder", "huggingface", "torchvision"} & set(everything)


def test_a_saved_set_of_another_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [{"bytes": encoded(i), "path": None} for i in range(6)]

    def part(labels: list[str]) -> object:
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["hen", "red_fox"])}
        )
        return datasets.Dataset.from_dict({"image": pictures[: len(labels)], "label": labels}, features=features)

    saved = datasets.DatasetDict({"train": part(["hen", "red_fox", "hen"]), "validation": part(["red_fox", "red_fox"])})
    saved.save_to_disk(str(tmp_path / "saved"))
    made = HuggingFaceSet(str(tmp_path / "saved"))
    assert sizes(made) == {"train": 3, "test": 2} and made.class_names == ("hen", "red fox")
    assert made.parts()["test"].labels.tolist() == [1, 1] and said(made, "validation tests")
    assert made.parts()["train"].pictures[0] == encoded(0)
    part(["hen", "red_fox"] * 3).to_parquet(str(tmp_path / "one.parquet"))
    alone = HuggingFaceSet(str(tmp_path / "one.parquet"))
    assert sum(sizes(alone).values()) == 6 and "test" in sizes(alone)


def test_labels_as_texts_have_one_number_in_all_splits(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, labels in (("train", ["b", "c"]), ("test", ["c", "a"])):
        columns = {"image": [{"bytes": encoded(i), "path": None} for i in range(2)], "label": labels}
        pq.write_table(pa.table(columns), tmp_path / f"{split}-00000-of-00001.parquet")
    made = HuggingFaceSet(str(tmp_path))
    assert made.class_names == ("a", "b", "c")
    assert {part: rows.labels.tolist() for part, rows in made.parts().items()} == {"train": [1, 2], "test": [2, 0]}


def test_pictures_of_a_named_set(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["hen", "fox"])})
    rows = {"img": [{"bytes": encoded(i), "path": None} for i in range(3)], "fine_label": [1, 0, 1]}
    named = datasets.DatasetDict(
        {"train": datasets.Dataset.from_dict(rows, features=features)}
        | {"test": datasets.Dataset.from_dict({key: values[:2] for key, values in rows.items()}, features=features)}
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda source, config: named)
    made = HuggingFaceSet("someone/birds")
    assert sizes(made) == {"train": 3, "test": 2} and made.parts()["test"].labels.tolist() == [1, 0]
    assert made.parts()["train"].pictures[2] == encoded(2) and made.class_names == ("hen", "fox")


def test_a_named_set_that_is_not_here() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(MissingDataset, match="download=true"):
        HuggingFaceSet("nobody/nothing-at-all")


def test_any_class_of_torchvision(tmp_path: Path) -> None:
    parts = {
        "train": {"size": 6, "image_size": [3, 8, 8], "num_classes": 3},
        "test": {"size": 4, "image_size": [3, 8, 8], "num_classes": 3},
    }
    made = build_set("torchvision", dataset="FakeData", parts=parts, root=str(tmp_path))
    assert sizes(made) == {"train": 6, "test": 4} and 1 <= made.num_classes <= 3
    assert np.asarray(made.parts()["test"].pictures[0]).shape == (8, 8, 3)
    with pytest.raises(ConfigError, match="did you mean 'Food101'"):
        build_set("torchvision", dataset="Food11", parts={"test": {}})
    with pytest.raises(MissingDataset, match="torchvision says.*download=true"):
        build_set("torchvision", dataset="Country211", parts={"test": {"split": "test"}}, root=str(tmp_path))
