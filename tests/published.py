"""Sets in the layouts of published code, made for tests, byte for byte as that code writes them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from made import encoded, picture

TEXTS = ["a plain caption", 'commas, "quotes"', "naïve 猫 caption", "two\nlines", "the same", "the same"]


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "JPEG")
    return buffer.getvalue()


def object_array(records: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(records), object)
    array[:] = records
    return array


def cc3m(folder: Path, pictures: int = 12) -> Path:
    """`cc3m.npy`: dicts of `image_id` (the file's name, here without extension) and `captions`."""
    (folder / "pictures" / "train").mkdir(parents=True)
    records = []
    for number in range(pictures):
        name = f"train/{number}_{1000 + number}"
        (folder / "pictures" / name).write_bytes(encoded(number))
        records.append({"image_id": name, "captions": [TEXTS[number % 6]]})
    np.save(folder / "cc3m.npy", object_array(records), allow_pickle=True)
    return folder


def cc12m(folder: Path, pictures: int = 12) -> Path:
    """`cc12m.npy`: dicts of `image_name`, `image_id` and `captions`, here one to three of them."""
    (folder / "pictures").mkdir(parents=True)
    records = []
    for number in range(pictures):
        (folder / "pictures" / f"{number:09d}.jpg").write_bytes(jpeg(number))
        captions = [f"{TEXTS[number % 6]} {i}" for i in range(1 + number % 3)]
        records.append({"image_name": f"{number:09d}.jpg", "image_id": number, "captions": captions})
    np.save(folder / "cc12m.npy", object_array(records), allow_pickle=True)
    return folder


YFCC = [3, 998, 12_345_678, 12_345_679, 12_346_000, 99_999_999, 40_000_001, 40_000_002]


def yfcc15m(folder: Path, images: str = "images/") -> Path:
    """`yfcc15m.pkl`: tuples (index, title, description); pictures in `images/12/345.zip`, member `678.jpg`."""
    records = []
    for number, index in enumerate(YFCC):
        name = f"{index:08d}"
        path = folder / "pictures" / f"{images}{name[:2]}" / f"{name[2:5]}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{name[5:]}.jpg", jpeg(number))
        title, description = [("", ""), ("title", ""), ("", "description"), ("title é", "description")][number % 4]
        records.append((index, title, description))
    with (folder / "yfcc15m.pkl").open("wb") as file:
        pickle.dump(records, file)
    return folder


DIRECTORIES = ["crochet_2017_000001", "crochet_2020_000001", "data_is_beautiful_2020_000001", "crochet_2020_000002"]


def lgssl(folder: Path, per_directory: int = 4) -> Path:
    """`redcaps/<directory>/<instance>.jpg + .json`, and the dictionary `redcaps.json`."""
    dictionary: dict[str, dict[str, list[str]]] = {}
    for number, directory in enumerate(DIRECTORIES):
        (folder / "redcaps" / directory).mkdir(parents=True)
        for i in range(per_directory):
            instance, caption = f"ab{number}{i}", f"{TEXTS[i % 6]} of {directory}"
            (folder / "redcaps" / directory / f"{instance}.jpg").write_bytes(jpeg(10 * number + i))
            record = {"image_id": instance, "caption": caption, "score": i, "subreddit": directory.split("_")[0]}
            (folder / "redcaps" / directory / f"{instance}.json").write_text(json.dumps(record))
            dictionary.setdefault(directory, {})[instance] = [f"{directory}/{instance}.jpg", caption]
    (folder / "redcaps.json").write_text(json.dumps(dictionary))
    return folder


def redcaps(folder: Path, pictures: int = 4) -> Path:
    """What the official downloader writes."""
    (folder / "annotations").mkdir(parents=True)
    for number, (subreddit, year) in enumerate([("crochet", 2017), ("crochet", 2020), ("data_is_beautiful", 2020)]):
        (folder / "images" / subreddit).mkdir(parents=True, exist_ok=True)
        records = []
        for i in range(pictures):
            name = f"q{number}{i}"
            (folder / "images" / subreddit / f"{name}.jpg").write_bytes(jpeg(100 * number + i))
            record = {"image_id": name, "author": "someone", "url": f"https://i.example/{name}.jpg"}
            record |= {"raw_caption": TEXTS[i].upper(), "caption": TEXTS[i], "subreddit": subreddit, "score": 5}
            records.append(record | {"created_utc": 1577836800.0, "permalink": "/r/x", "crosspost_parents": None})
        content = {"info": {"version": "v1.0", "year": year}, "annotations": records}
        (folder / "annotations" / f"{subreddit}_{year}.json").write_text(json.dumps(content))
    return folder


def imagenet(folder: Path, train: int = 6, val: int = 3) -> Path:
    """`train/n0.../n0..._1.JPEG` and `val/n0.../ILSVRC2012_val_00000001.JPEG`."""
    for number, name in enumerate(["n01440764", "n01443537", "n01484850"]):
        for split, count in (("train", train), ("val", val)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                file = f"{name}_{i}.JPEG" if split == "train" else f"ILSVRC2012_val_{number * val + i:08d}.JPEG"
                (folder / split / name / file).write_bytes(jpeg(1000 * number + 100 * (split == "val") + i))
    return folder
