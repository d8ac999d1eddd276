"""Published layouts: read in place, prepared from their archives, and what is said about both."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archives import write_zip
from evaluation_layouts import CASES, Found, mnist_files, tar
from made import encoded
from PIL import Image
from prepare_data import prepare_data

from lgrep.cli import run
from lgrep.data.preparing import Encoding
from lgrep.errors import ConfigError, DataError
from lgrep.evaluation.contract import EvaluationSet
from lgrep.evaluation.datasets.catalogue import build_set
from lgrep.evaluation.datasets.making import make_dataset
from lgrep.evaluation.datasets.missing import MissingDataset


def check(made: EvaluationSet, found: Found) -> None:
    """Every picture of every part with its class, in the published order."""
    assert {part: len(rows.labels) for part, rows in made.parts().items()} == {
        p: len(rows) for p, rows in found.items()
    }
    for part, rows in made.parts().items():
        for position, (end, names) in enumerate(found[part]):
            identity = rows.pictures.identity(position)
            assert identity.endswith(end), (part, identity, end)
            if rows.labels.ndim == 2:
                said = "|".join(made.class_names[i] for i in rows.labels[position].nonzero()[:, 0])
            else:
                said = made.class_names[int(rows.labels[position])]
            assert said == names, (identity, said, names)
            Image.open(io.BytesIO(rows.pictures[position])).load()


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_published_archive_is_prepared_and_read(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / "archives").mkdir()
    found = case.make(tmp_path / "archives")
    said = make_dataset(tmp_path / "data" / name, name, str(tmp_path / "archives"), keep=True)
    assert f"test {len(found['test'])}" in said
    prepared = build_set(name, root=str(tmp_path / "data"))
    in_place = build_set(name, root=str(tmp_path / "data" / f"{name}.unpacked"))
    for made in (prepared, in_place):
        check(made, found)
        assert made.num_classes == len(made.class_names) == case.classes
        assert all(any(word in note for note in made.notes) for word in case.remarks)
        assert all(text.count("{}") == 1 for text in made.templates)
    assert prepared.class_names == in_place.class_names
    for part, rows in in_place.parts().items():
        again = prepared.parts()[part]
        assert [again.pictures[i] for i in range(len(again.labels))] == [
            rows.pictures[i] for i in range(len(rows.labels))
        ]


def test_texts_of_memes_and_metric(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    CASES["hateful_memes"].make(tmp_path / "archives")
    make_dataset(tmp_path / "hateful_memes", "hateful_memes", str(tmp_path / "archives"))
    assert not (tmp_path / "hateful_memes.unpacked").exists()
    memes = build_set("hateful_memes", root=str(tmp_path))
    assert memes.metric == "roc_auc" and memes.parts()["test"].captions == [["a joke – 3"]]


def test_pixels_of_arrays(tmp_path: Path) -> None:
    pixels, labels = mnist_files(tmp_path)
    for packed in (True, False):
        if not packed:
            mnist_files(tmp_path, packed=False)
            for path in tmp_path.glob("*.gz"):
                path.unlink()
        digits = build_set("mnist", root=str(tmp_path))
        assert digits.parts()["test"].labels.tolist() == labels[3:] and digits.class_names[9] == "nine"
        for position in range(3):
            shown = np.asarray(Image.open(io.BytesIO(digits.parts()["test"].pictures[position])))
            assert np.array_equal(shown, pixels[3 + position])
    make_dataset(tmp_path / "out" / "mnist", "mnist", str(tmp_path))
    assert build_set("mnist", root=str(tmp_path / "out")).parts()["train"].labels.tolist() == labels[:3]
    (tmp_path / "train-images-idx3-ubyte").write_bytes((tmp_path / "train-images-idx3-ubyte").read_bytes()[:-1])
    with pytest.raises(DataError, match="Copy it again"):
        build_set("mnist", root=str(tmp_path))


def test_cifar_and_stl_are_turned_the_right_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    rows = [bytes([7, fine]) + pixels[i].transpose(2, 0, 1).tobytes() for i, fine in enumerate((0, 99, 3, 4, 5, 98))]
    (folder / "train.bin").write_bytes(b"".join(rows[:4]))
    (folder / "test.bin").write_bytes(b"".join(rows[4:]))
    cifar = build_set("cifar100", root=str(tmp_path))
    assert [cifar.class_names[i] for i in cifar.parts()["train"].labels[:2]] == ["apple", "worm"]
    assert cifar.parts()["test"].labels.tolist() == [5, 98]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(cifar.parts()["test"].pictures[1]))), pixels[5])
    large = rng.integers(0, 256, (2, 96, 96, 3), np.uint8)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(large.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([10, 1]))
    stl = build_set("stl10", root=str(tmp_path))
    assert [stl.class_names[i] for i in stl.parts()["test"].labels] == ["truck", "airplane"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stl.parts()["test"].pictures[0]))), large[0])


def test_fer2013_and_both_names_of_its_file(tmp_path: Path) -> None:
    values = " ".join(str(i % 256) for i in range(48 * 48))
    rows = [(3, "Training"), (6, "PublicTest"), (0, "PrivateTest")]
    (tmp_path / "fer2013.csv").write_text(
        "emotion,pixels,Usage\n" + "".join(f"{label},{values},{usage}\n" for label, usage in rows)
    )
    faces = build_set("fer2013", root=str(tmp_path))
    said = {part: faces.class_names[int(rows.labels[0])] for part, rows in faces.parts().items()}
    assert said == {"train": "happy", "validation": "neutral", "test": "angry"}
    (tmp_path / "fer2013.csv").rename(tmp_path / "old")
    (tmp_path / "icml_face_data.csv").write_text(
        "emotion, Usage, pixels\n" + "".join(f"{label},{usage},{values}\n" for label, usage in rows)
    )
    assert {p: int(r.labels[0]) for p, r in build_set("fer2013", root=str(tmp_path)).parts().items()} == {
        "train": 3,
        "validation": 6,
        "test": 0,
    }


def test_patch_camelyon(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    for part in ("train", "valid", "test"):
        stem = tmp_path / f"camelyonpatch_level_2_split_{part}_"
        with h5py.File(f"{stem}x.h5", "w") as file:
            file["x"] = pixels
        with h5py.File(f"{stem}y.h5", "w") as file:
            file["y"] = np.array([0, 1, 1], np.uint8).reshape(3, 1, 1, 1)
    pcam = build_set("pcam", root=str(tmp_path))
    assert pcam.parts()["test"].labels.tolist() == [0, 1, 1]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pcam.parts()["train"].pictures[2]))), pixels[2])


def test_distances_of_kitti(tmp_path: Path) -> None:
    def line(kind: str, depth: float) -> str:
        return f"{kind} 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 {depth:.2f} -1.56\n"

    scenes = ["", line("Pedestrian", 3.0), line("Car", 7.9) + line("Truck", 50), line("Van", 8.0), line("Car", 20.0)]
    for folder in ("image_2", "label_2"):
        (tmp_path / "training" / folder).mkdir(parents=True)
    for copy in range(4):
        for number, text in enumerate(scenes):
            (tmp_path / f"training/image_2/{copy}{number}.png").write_bytes(encoded(number))
            (tmp_path / f"training/label_2/{copy}{number}.txt").write_text(text)
    kitti = build_set("kitti_distance", root=str(tmp_path))
    expected = {"0": "3", "1": "3", "2": "0", "3": "1", "4": "2"}
    for part in kitti.parts().values():
        for position, label in enumerate(part.labels.tolist()):
            assert label == int(expected[Path(part.pictures.identity(position)).stem[1]])


def test_middle_frames_of_ucf101(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for number, name in enumerate(("Archery/v_Archery_g08_c01", "Archery/v_Archery_g01_c01")):
        path = tmp_path / f"UCF-101/{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
        for frame in range(9):
            writer.write(np.full((48, 64, 3), 20 * frame + 40 * number, np.uint8))
        writer.release()
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    frames = build_set("ucf101_frames", root=str(tmp_path))
    middle = np.asarray(Image.open(io.BytesIO(frames.parts()["test"].pictures[0])))
    assert frames.class_names == ("Archery",) and abs(float(middle.mean()) - (20 * 4 + 40)) < 4


def test_drawn_parts_are_the_published_sizes_and_never_change(tmp_path: Path) -> None:
    for kind in ("AnnualCrop", "SeaLake"):
        (tmp_path / "2750" / kind).mkdir(parents=True)
        for number in range(1355):
            (tmp_path / "2750" / kind / f"{kind}_{number}.jpg").write_bytes(b"x")
    first, again = (build_set("eurosat", root=str(tmp_path)) for _ in range(2))
    sizes = {part: len(rows.labels) for part, rows in first.parts().items()}
    assert sizes == {"train": 10, "validation": 1080, "test": 1620} and first.class_names == ("annual crop", "sea lake")
    names = [
        {rows.pictures.identity(i) for i in range(1620)} for rows in (first.parts()["test"], again.parts()["test"])
    ]
    assert names[0] == names[1] and first.data_hash == again.data_hash
    ordered = sorted(f"2750/AnnualCrop/AnnualCrop_{number}.jpg" for number in range(1355))
    drawn = np.random.RandomState(0).permutation(1355)[:1350]  # validation or test, as the rule lists them
    assert {name for name in names[0] if "AnnualCrop" in name} == {ordered[place] for place in drawn[:810]}


def test_index_lists_replace_the_parts(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"NWPU-RESISC45/airport/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("NWPU-RESISC45/airport/3.jpg\n")
    (lists / "val.txt").write_text("NWPU-RESISC45/airport/1.jpg\n")
    (lists / "test.txt").write_text("NWPU-RESISC45/airport/0.jpg\n")
    made = build_set("resisc45", root=str(tmp_path), splits=str(lists))
    assert {part: rows.pictures.identity(0)[-5] for part, rows in made.parts().items()} == {
        "train": "3",
        "validation": "1",
        "test": "0",
    }
    assert not any("not comparable" in note for note in made.notes)
    (lists / "test.txt").write_text("NWPU-RESISC45/airport/9.jpg\n")
    with pytest.raises(DataError, match=r"lacks, first NWPU-RESISC45/airport/9\.jpg"):
        build_set("resisc45", root=str(tmp_path), splits=str(lists))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "image_class_labels.txt",
            "1 1\n3 2\n",
            "do not list the same pictures: 1 are in one only, the first .* number 2",
        ),
        ("image_class_labels.txt", "1 1\n2 1\n2 2\n3 2\n", "two different lines with the number 2"),
        ("image_class_labels.txt", "1 1\n2\n3 2\n", "the line '2' has one column"),
        ("train_test_split.txt", "1 1\n2 2\n3 1\n", "'2' is none of 1, 0"),
        ("images.txt", "1 a/x.jpg\n2 a/y.jpg\n3 a/z.jpg\n", "3 of 3 listed pictures are not there: images/a/x.jpg"),
    ],
)
def test_damaged_label_files_are_named(file: str, text: str, message: str, tmp_path: Path) -> None:
    CASES["cub2011"].make(tmp_path)
    with tarfile.open(tmp_path / "CUB_200_2011.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "CUB_200_2011" / file).write_text(text)
    with pytest.raises(DataError, match=message):
        build_set("cub2011", root=str(tmp_path))


def test_what_is_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDataset) as caught:
        build_set("aircraft", root=str(tmp_path))
    said = str(caught.value)
    assert "fgvc-aircraft-2013b.tar.gz" in said and "make=dataset make.dataset=aircraft" in said
    assert "options.aircraft.download=true" in said and "\n" not in said and caught.value.exit_code == 3
    monkeypatch.setenv("LGREP_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(MissingDataset, match="elsewhere"):
        build_set("cub2011")
    with pytest.raises(MissingDataset, match="cannot be downloaded by torchvision"):
        build_set("cub2011", download=True)


def test_broken_archives_and_other_contents(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    with pytest.raises(ConfigError, match="digits"):
        make_dataset(tmp_path / "out", "digits", str(archives))
    with pytest.raises(DataError, match="does not exist"):
        make_dataset(tmp_path / "out", "dtd", str(tmp_path / "nothing"))
    (archives / "dtd-r1.0.1.tar.gz").write_bytes(b"\x1f\x8b half a file")
    with pytest.raises(DataError, match=r"dtd-r1\.0\.1\.tar\.gz cannot be unpacked"):
        make_dataset(tmp_path / "out", "dtd", str(archives))
    tar(archives / "dtd-r1.0.1.tar.gz", {"other/readme.txt": b"no textures"})
    with pytest.raises(DataError, match=r"does not give dtd: dtd-r1.0.1.tar.gz are needed; there is .*other"):
        make_dataset(tmp_path / "out", "dtd", str(archives))


def test_archives_cannot_write_elsewhere(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    tar(archives / "dtd-r1.0.1.tar.gz", {"../../outside.txt": b"x"})
    with pytest.raises(DataError, match="outside the destination"):
        make_dataset(tmp_path / "out", "dtd", str(archives))
    link = tarfile.TarInfo("dtd")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(archives / "dtd-r1.0.1.tar.gz", "w:gz") as archive:
        archive.addfile(link)
    with pytest.raises(DataError, match="cannot be unpacked"):
        make_dataset(tmp_path / "out", "dtd", str(archives))
    (archives / "dtd-r1.0.1.tar.gz").unlink()
    write_zip(archives / "a.zip", [("../../outside.txt", b"x")])
    with pytest.raises(DataError, match="does not give dtd"):
        make_dataset(tmp_path / "out", "dtd", str(archives))
    assert not list(tmp_path.rglob("outside.txt")) or [p.parent.name for p in tmp_path.rglob("outside.txt")] == [
        "out.unpacked"
    ]


def test_the_command_line_prepares_and_encodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    CASES["dtd"].make(archives)
    given = ["make=dataset", "make.dataset=dtd", f"make.archives={archives}", f"out={tmp_path}/dtd", "workers=0"]
    assert run("prepare", "", prepare_data, [*given, "size=16", "format=jpeg"]) == 0
    assert "dtd: train 1, validation 1, test 1; 2 classes" in capsys.readouterr().out
    picture = Image.open(io.BytesIO(build_set("dtd", root=str(tmp_path)).parts()["test"].pictures[0]))
    assert min(picture.size) == 16 and picture.format == "JPEG"
    assert run("prepare", "", prepare_data, [*given[:1], "make.dataset=dtdd", *given[2:]]) == 2
    assert "did you mean 'dtd'" in capsys.readouterr().err


def test_broken_pictures_are_left_out_when_prepared(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    CASES["pets"].make(archives)
    tar(
        archives / "images.tar.gz",
        {f"images/{n}.jpg": encoded(1) for n in ("american_bulldog_100", "Abyssinian_2")}
        | {"images/Abyssinian_1.jpg": b"<html>"},
    )
    said = make_dataset(tmp_path / "pets", "pets", str(archives), encoding=Encoding(), max_skip_share=0.5)
    assert "1 broken pictures are left out" in said
    made = build_set("pets", root=str(tmp_path))
    assert len(made.parts()["train"].labels) == 1 and made.class_names == ("Abyssinian", "american bulldog")
    assert any("train: 1 pictures were found, 3,680 were published" in note for note in made.notes)
