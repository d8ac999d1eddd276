"""Tiny archives in the layouts that authors publish, and what must be read from them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from archives import write_zip
from made import encoded
from scipy.io import savemat

Found = dict[str, list[tuple[str, str]]]  # part -> (end of the picture's name, class name)


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith(("gz", "tgz")) else "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def pictures(*names: str) -> dict[str, bytes]:
    return {name: encoded(number, "JPEG") for number, name in enumerate(names)}


def food101(at: Path) -> Found:
    names = ["apple_pie/1", "apple_pie/2", "baby_back_ribs/3", "baby_back_ribs/4"]
    files = {f"food-101/images/{n}.jpg": encoded(i) for i, n in enumerate(names)}
    files["food-101/meta/train.txt"] = b"apple_pie/1\nbaby_back_ribs/3\n"
    files["food-101/meta/test.txt"] = b"baby_back_ribs/4\napple_pie/2\n"
    tar(at / "food-101.tar.gz", files)
    return {
        "train": [("apple_pie/1.jpg", "apple pie"), ("baby_back_ribs/3.jpg", "baby back ribs")],
        "test": [("baby_back_ribs/4.jpg", "baby back ribs"), ("apple_pie/2.jpg", "apple pie")],
    }


def cub2011(at: Path) -> Found:
    birds = ["001.Black_footed_Albatross/A_1.jpg", "001.Black_footed_Albatross/A_2.jpg", "002.Laysan_Albatross/B_1.jpg"]
    top = "CUB_200_2011/"
    files = {f"{top}images/{bird}": encoded(i) for i, bird in enumerate(birds)}
    files[f"{top}images.txt"] = "".join(f"{i} {bird}\n" for i, bird in enumerate(birds, 1)).encode()
    files[f"{top}image_class_labels.txt"] = b"1 1\n2 1\n3 2\n"
    files[f"{top}train_test_split.txt"] = b"1 1\n2 0\n3 1\n"
    files[f"{top}classes.txt"] = b"1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n"
    tar(at / "CUB_200_2011.tgz", files)
    return {
        "train": [("A_1.jpg", "Black footed Albatross"), ("B_1.jpg", "Laysan Albatross")],
        "test": [("A_2.jpg", "Black footed Albatross")],
    }


def sun397(at: Path) -> Found:
    names = ["/a/abbey/sun_a.jpg", "/c/cavern/indoor/sun_b.jpg", "/a/abbey/sun_c.jpg"]
    tar(at / "SUN397.tar.gz", {f"SUN397{n}": encoded(i) for i, n in enumerate(names)})
    write_zip(
        at / "Partitions.zip",
        {"Training_01.txt": "\n".join(names[:2]).encode(), "Testing_01.txt": names[2].encode()}.items(),
    )
    return {"train": [("sun_a.jpg", "abbey"), ("sun_b.jpg", "cavern indoor")], "test": [("sun_c.jpg", "abbey")]}


def cars196(at: Path) -> Found:
    tar(at / "car_ims.tgz", pictures("car_ims/000001.jpg", "car_ims/000002.jpg", "car_ims/000003.jpg"))
    kind = [("relative_im_path", "O"), ("bbox_x1", "O"), ("class", "O"), ("test", "O")]
    rows = [("car_ims/000001.jpg", 1, 1, 0), ("car_ims/000002.jpg", 5, 3, 0), ("car_ims/000003.jpg", 2, 1, 1)]
    savemat(at / "cars_annos.mat", {"annotations": np.array(rows, kind)})
    (at / "devkit").mkdir()
    names = np.array([f"Maker Model {i} 2012" for i in range(1, 197)], object)
    savemat(at / "devkit/cars_meta.mat", {"class_names": names})
    return {
        "train": [("000001.jpg", "Maker Model 1 2012"), ("000002.jpg", "Maker Model 3 2012")],
        "test": [("000003.jpg", "Maker Model 1 2012")],
    }


def aircraft(at: Path) -> Found:
    top = "fgvc-aircraft-2013b/data/"
    files = pictures(*(f"{top}images/{n}.jpg" for n in ("0034309", "1025794", "0000001")))
    files[f"{top}images_variant_train.txt"] = b"0034309 Boeing 737-200\n"
    files[f"{top}images_variant_val.txt"] = b"1025794 A300B4\n"
    files[f"{top}images_variant_test.txt"] = b"0000001 Boeing 737-200\n"
    tar(at / "fgvc-aircraft-2013b.tar.gz", files)
    return {
        "train": [("0034309.jpg", "Boeing 737-200")],
        "validation": [("1025794.jpg", "A300B4")],
        "test": [("0000001.jpg", "Boeing 737-200")],
    }


def dtd(at: Path) -> Found:
    names = ["banded/banded_0002.jpg", "dotted/dotted_0001.jpg", "banded/banded_0004.jpg"]
    files = pictures(*(f"dtd/images/{n}" for n in names))
    for part, name in zip(("train", "val", "test"), names, strict=True):
        files[f"dtd/labels/{part}1.txt"] = f"{name}\n".encode()
    tar(at / "dtd-r1.0.1.tar.gz", files)
    return {
        "train": [("banded_0002.jpg", "banded")],
        "validation": [("dotted_0001.jpg", "dotted")],
        "test": [("banded_0004.jpg", "banded")],
    }


def pets(at: Path) -> Found:
    tar(
        at / "images.tar.gz",
        pictures(*(f"images/{n}.jpg" for n in ("Abyssinian_1", "american_bulldog_100", "Abyssinian_2"))),
    )
    lists = {"annotations/trainval.txt": b"Abyssinian_1 1 1 1\namerican_bulldog_100 2 2 1\n"}
    tar(at / "annotations.tar.gz", {**lists, "annotations/test.txt": b"Abyssinian_2 1 1 1\n"})
    return {
        "train": [("Abyssinian_1.jpg", "Abyssinian"), ("american_bulldog_100.jpg", "american bulldog")],
        "test": [("Abyssinian_2.jpg", "Abyssinian")],
    }


def flowers(at: Path) -> Found:
    tar(at / "102flowers.tgz", pictures(*(f"jpg/image_{n:05d}.jpg" for n in range(1, 5))))
    savemat(at / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 1]], np.uint8)})
    savemat(at / "setid.mat", {"trnid": np.array([[2]]), "valid": np.array([[4]]), "tstid": np.array([[1, 3]])})
    return {
        "train": [("image_00002.jpg", "pink primrose")],
        "validation": [("image_00004.jpg", "pink primrose")],
        "test": [("image_00001.jpg", "passion flower"), ("image_00003.jpg", "blackberry lily")],
    }


def gtsrb(at: Path) -> Found:
    ppm = {f"GTSRB/Training/0000{c}/0000{i}.ppm": encoded(i, "PPM") for c in (0, 2) for i in (0, 1)}
    write_zip(at / "GTSRB-Training_fixed.zip", {**ppm, "GTSRB/Training/00000/GT-00000.csv": b"x"}.items())
    write_zip(
        at / "GTSRB_Final_Test_Images.zip",
        {f"GTSRB/Final_Test/Images/{n}.ppm": encoded(n, "PPM") for n in (0, 1)}.items(),
    )
    lines = "Filename;Width;Height;Roi.X1;ClassId\n0.ppm;53;54;6;2\n1.ppm;42;45;5;0\n"
    write_zip(at / "GTSRB_Final_Test_GT.zip", {"GT-final_test.csv": lines.encode()}.items())
    train = [(f"0000{c}/0000{i}.ppm", f"speed limit {20 if c == 0 else 50}") for c in (0, 2) for i in (0, 1)]
    return {"train": train, "test": [("Images/0.ppm", "speed limit 50"), ("Images/1.ppm", "speed limit 20")]}


def hateful_memes(at: Path) -> Found:
    rows = [{"id": i, "img": f"img/0{i}.png", "label": i % 2, "text": f"a joke – {i}"} for i in range(4)]
    files = {f"img/0{i}.png": encoded(i) for i in range(5)}
    files["train.jsonl"] = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows[:3]).encode()
    files["dev_seen.jsonl"] = json.dumps(rows[3]).encode() + b"\n"
    files["test_seen.jsonl"] = json.dumps({"id": 4, "img": "img/04.png", "text": "blind"}).encode()
    write_zip(at / "hateful_memes.zip", files.items())
    names = ["meme", "hateful meme"]
    return {"train": [(f"0{i}.png", names[i % 2]) for i in range(3)], "test": [("03.png", names[1])]}


def split_folders(archive: str, top: str, parts: tuple[str, ...], classes: tuple[str, ...], names: tuple[str, ...]):
    def make(at: Path) -> Found:
        files = [f"{top}{part}/{kind}/{i}.png" for part in parts for kind in classes for i in range(2)]
        tar(at / archive, pictures(*files))
        kinds = dict(zip(classes, names, strict=True))
        said = dict(zip(parts, ("train", "validation", "test"), strict=True))
        return {said[p]: [(f"{p}/{k}/{i}.png", kinds[k]) for k in classes for i in range(2)] for p in parts}

    return make


def voc2007(at: Path) -> Found:
    top = "VOCdevkit/VOC2007/"
    labels = {"train": {"000012": (-1, 1)}, "val": {"000005": (0, 1)}, "test": {"000001": (1, 1), "000002": (-1, -1)}}
    for archive, parts in (("trainval_06", ("train", "val")), ("test_06", ("test",))):
        files = pictures(*(f"{top}JPEGImages/{n}.jpg" for part in parts for n in labels[part]))
        for part in parts:
            for column, kind in enumerate(("aeroplane", "tvmonitor")):
                lines = "".join(f"{n} {values[column]:2d}\n" for n, values in labels[part].items())
                files[f"{top}ImageSets/Main/{kind}_{part}.txt"] = lines.encode()
        tar(at / f"VOC{archive}-Nov-2007.tar", files)
    return {
        "train": [("000012.jpg", "television")],
        "validation": [("000005.jpg", "television")],
        "test": [("000001.jpg", "aeroplane|television"), ("000002.jpg", "")],
    }


def clevr_counts(at: Path) -> Found:
    files = {}
    for part, counts in (("train", (3, 10)), ("val", (4, 3))):
        scenes = [{"image_filename": f"{part}_{i}.png", "objects": [{}] * n} for i, n in enumerate(counts)]
        files[f"CLEVR_v1.0/scenes/CLEVR_{part}_scenes.json"] = json.dumps({"info": {}, "scenes": scenes}).encode()
        files |= pictures(*(f"CLEVR_v1.0/images/{part}/{part}_{i}.png" for i in range(2)))
    write_zip(at / "CLEVR_v1.0.zip", files.items())
    return {
        "train": [("train_0.png", "three"), ("train_1.png", "ten")],
        "test": [("val_0.png", "four"), ("val_1.png", "three")],
    }


def inat2019(at: Path) -> Found:
    names = [f"train_val2019/Birds/{c}/{i}.jpg" for i, c in enumerate((0, 7, 7))]
    tar(at / "train_val2019.tar.gz", pictures(*names))
    categories = [{"id": 0, "name": "Corvus corax"}, {"id": 7, "name": "Pica pica"}]
    for part, rows in (("train", (0, 1)), ("val", (2,))):
        content = {
            "images": [{"id": 10 + i, "file_name": names[i]} for i in rows],
            "annotations": [{"id": i, "image_id": 10 + i, "category_id": (0, 7, 7)[i]} for i in reversed(rows)],
            "categories": categories,
        }
        tar(at / f"{part}2019.json.tar.gz", {f"{part}2019.json": json.dumps(content).encode()})
    return {"train": [("0.jpg", "Corvus corax"), ("1.jpg", "Pica pica")], "test": [("2.jpg", "Pica pica")]}


def imagenet(at: Path) -> Found:
    kinds = ("n01440764", "n02123045")
    for number, name in enumerate(f"{part}/{kind}/x_{part}.JPEG" for part in ("train", "val") for kind in kinds):
        (at / name).parent.mkdir(parents=True)
        (at / name).write_bytes(encoded(number, "JPEG"))
    names = ("tench", "tabby cat")
    return {
        said: [(f"{k}/x_{part}.JPEG", n) for k, n in zip(kinds, names, strict=True)]
        for part, said in (("train", "train"), ("val", "test"))
    }


def imagenet_v2(at: Path) -> Found:
    top = "imagenetv2-matched-frequency-format-val"
    tar(at / "imagenetv2-matched-frequency.tar.gz", pictures(f"{top}/0/a.jpeg", f"{top}/10/b.jpeg", f"{top}/2/c.jpeg"))
    return {"test": [("0/a.jpeg", "tench"), ("10/b.jpeg", "brambling"), ("2/c.jpeg", "great white shark")]}


def cog_l2(at: Path) -> Found:
    levels = [[f"n0000000{level}", f"n1000000{level}"] for level in range(5)]
    splits = {}
    for level in levels:
        for synset in level:
            splits[synset] = {"train": [f"{synset}/{synset}_1.JPEG"], "test": [f"{synset}/{synset}_2.JPEG"]}
    (at / "cog_levels_mapping_file.pkl").write_bytes(pickle.dumps(levels, 2))
    arrays = {s: {part: np.array(paths, object) for part, paths in e.items()} for s, e in splits.items()}
    (at / "cog_concepts_split_file.pkl").write_bytes(pickle.dumps(arrays if COG_ARRAYS else splits, 2))
    for number, synset in enumerate(levels[1]):
        (at / synset).mkdir()
        for picture in (1, 2):
            (at / synset / f"{synset}_{picture}.JPEG").write_bytes(encoded(2 * number + picture, "JPEG"))
    return {part: [(splits[s][part][0], s) for s in sorted(levels[1])] for part in ("train", "test")}


COG_ARRAYS = True


@dataclass
class Case:
    """A published layout.

    Attributes:
        make: writes the archives and says what is in them.
        classes: number of classes that must be known.
        remarks: words that the notes must have.
    """

    make: Callable[[Path], Found]
    classes: int = 2
    remarks: tuple[str, ...] = field(default_factory=tuple)


CASES = {
    "food101": Case(food101, 2, ("75,750", "held-out" * 0)),
    "cub2011": Case(cub2011, 2, ("5,994",)),
    "sun397": Case(sun397),
    "cars196": Case(cars196, 196),
    "aircraft": Case(aircraft),
    "dtd": Case(dtd),
    "pets": Case(pets),
    "flowers": Case(flowers, 102),
    "gtsrb": Case(gtsrb),
    "hateful_memes": Case(hateful_memes),
    "rendered_sst2": Case(
        split_folders(
            "rendered-sst2.tgz",
            "rendered-sst2/",
            ("train", "valid", "test"),
            ("negative", "positive"),
            ("negative", "positive"),
        )
    ),
    "country211": Case(
        split_folders("country211.tgz", "country211/", ("train", "valid", "test"), ("AD", "NO"), ("Andorra", "Norway"))
    ),
    "voc2007": Case(voc2007, 2, ("difficult",)),
    "clevr_counts": Case(clevr_counts, 3, ("not comparable",)),
    "inat2019": Case(inat2019),
    "imagenet": Case(imagenet),
    "imagenet_v2": Case(imagenet_v2, 1000),
    "cog_l2": Case(cog_l2),
}


def mnist_files(at: Path, packed: bool = True) -> tuple[np.ndarray, list[int]]:
    """Pixels and labels of both parts, three pictures each."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    labels = [3, 1, 4, 1, 5, 9]
    for start, name in ((0, "train"), (3, "t10k")):
        some = pixels[start : start + 3]
        files = {
            f"{name}-images-idx3-ubyte": struct.pack(">4I", 0x803, 3, 28, 28) + some.tobytes(),
            f"{name}-labels-idx1-ubyte": struct.pack(">2I", 0x801, 3) + bytes(labels[start : start + 3]),
        }
        for file, data in files.items():
            (at / f"{file}.gz").write_bytes(gzip.compress(data)) if packed else (at / file).write_bytes(data)
    return pixels, labels
