"""Label files that need more than columns: MATLAB, VOC, COCO and scene files, and ImageNet-CoG's levels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from lgrep.data.notices import reason_of, shown
from lgrep.data.restricted import read_records
from lgrep.data.sources.listing import list_pictures
from lgrep.errors import DataError
from lgrep.evaluation.datasets.listed import Keys, Listed, read_lines, read_text
from lgrep.evaluation.datasets.readers import Reader

_VEHICLES = ("Car", "Van", "Truck")


def load_mat(path: Path) -> dict[str, Any]:
    """The arrays of a MATLAB file (version 4 to 7.2), squeezed.

    Raises:
        DataError: it cannot be read.
    """
    from scipy.io import loadmat

    try:
        return dict(loadmat(path, squeeze_me=True))
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read ({reason_of(error)})") from error
    except Exception as error:  # scipy raises almost anything on damaged files
        raise DataError(f"{shown(path)} is no MATLAB file that can be read ({str(error)[:100]})") from error


def mat_array(path: Path, name: str) -> np.ndarray[Any, Any]:
    """One array of a MATLAB file, at least one-dimensional."""
    content = load_mat(path)
    if name not in content:
        there = ", ".join(key for key in content if not key.startswith("__"))
        raise DataError(f"{shown(path)} has no array '{name}'; it has {there}")
    return np.atleast_1d(content[name])


def load_json(path: Path) -> Any:
    """Content of a JSON file."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{shown(path)} is no JSON ({str(error)[:80]})") from error


class MatRecords(Reader):
    """An array of records in a MATLAB file.

    Attributes:
        file, array: where they are.
        picture: template of the records' fields.
        label: field of the class.
        test: field that is 1 for pictures of the test part; null: the caller says the part.
    """

    kind: Literal["mat_records"]
    file: str
    array: str = "annotations"
    picture: str
    label: str = "class"
    test: str | None = None

    def read(self, base: Path) -> Listed:
        records = mat_array(base / self.file, self.array)
        needed = {self.label, *re.findall(r"\{(\w+)", self.picture), *([self.test] if self.test else [])}
        lost = sorted(needed - set(records.dtype.names or ()))
        if lost:
            blind = ": take the file with labels" if lost == [self.label] else ""
            raise DataError(f"{self.file}: the records have no field {', '.join(lost)}{blind}")
        rows = [{name: record[name] for name in records.dtype.names} for record in records]
        keys: list[Keys] = [str(int(row[self.label])) for row in rows]
        parts = [("train", "test")[int(row[self.test])] for row in rows] if self.test else []
        return Listed([self.picture.format(**row) for row in rows], keys, parts)


class MatNumbers(Reader):
    """Numbers of a part's pictures in one MATLAB file, the labels of all pictures (from number 1) in another.

    Attributes:
        file, array: the numbers.
        labels, label_array: the labels.
        picture: template of the number `{0}`.
    """

    kind: Literal["mat_numbers"]
    file: str
    array: str
    labels: str
    label_array: str = "labels"
    picture: str

    def read(self, base: Path) -> Listed:
        numbers = mat_array(base / self.file, self.array).astype(int).tolist()
        labels = mat_array(base / self.labels, self.label_array).astype(int).tolist()
        beyond = [number for number in numbers if not 1 <= number <= len(labels)]
        if beyond:
            raise DataError(f"{self.labels} has {len(labels):,} labels, {self.file} names picture {beyond[0]:,}")
        keys: list[Keys] = [str(labels[number - 1]) for number in numbers]
        return Listed([self.picture.format(number) for number in numbers], keys)


class Voc(Reader):
    """PASCAL VOC: `ImageSets/Main/CLASS_SPLIT.txt`, 1 present, -1 absent, 0 only as a difficult object.

    Attributes:
        split: of the files.
        difficult: what 0 counts as.
    """

    kind: Literal["voc"]
    split: str
    difficult: Literal["absent", "present"] = "absent"

    def read(self, base: Path) -> Listed:
        folder = base / "ImageSets/Main"
        lists = sorted(path for path in folder.glob(f"*_{self.split}.txt"))
        if not lists:
            raise DataError(f"{shown(folder)} has no files CLASS_{self.split}.txt")
        right = ("1", "0") if self.difficult == "present" else ("1",)
        present: dict[str, list[str]] = {}
        for number, path in enumerate(lists):
            rows = dict(row for row in read_lines(path) if len(row) == 2)
            if number and rows.keys() != present.keys():
                raise DataError(f"{shown(path)} does not list the same pictures as {lists[0].name}")
            for name, value in rows.items():
                classes = present.setdefault(name, [])
                if value in right:
                    classes.append(path.name.removesuffix(f"_{self.split}.txt"))
        return Listed([f"JPEGImages/{name}.jpg" for name in present], [tuple(found) for found in present.values()])


class Coco(Reader):
    """COCO's JSON with one class per picture (iNaturalist 2018 and 2019).

    Attributes:
        file: has `images`, `annotations` and, mostly, `categories`.
    """

    kind: Literal["coco"]
    file: str

    def read(self, base: Path) -> Listed:
        content = load_json(base / self.file)
        try:
            files = {image["id"]: str(image["file_name"]) for image in content["images"]}
            labels = {note["image_id"]: str(note["category_id"]) for note in content["annotations"]}
            names = {str(entry["id"]): str(entry["name"]) for entry in content.get("categories", ())}
        except (KeyError, TypeError) as error:
            raise DataError(f"{self.file} lacks {error}: images, annotations and their ids are needed") from error
        lost = [files[key] for key in files if key not in labels]
        if lost:
            raise DataError(
                f"{self.file}: {len(lost):,} of {len(files):,} pictures have no label, the first is {lost[0]}"
            )
        keys: list[Keys] = [labels[key] for key in files]
        return Listed(list(files.values()), keys, names=names)


class Clevr(Reader):
    """CLEVR with the number of objects as the class, in the order of the files' names.

    Attributes:
        split: `train` or `val`.
        first: picture to begin with.
        count: pictures; null: all.
    """

    kind: Literal["clevr"]
    split: str
    first: NonNegativeInt = 0
    count: PositiveInt | None = None

    def read(self, base: Path) -> Listed:
        file = f"scenes/CLEVR_{self.split}_scenes.json"
        try:
            found = {str(s["image_filename"]): len(s["objects"]) for s in load_json(base / file)["scenes"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{file} lacks {error}") from error
        end = None if self.count is None else self.first + self.count
        chosen = sorted(found)[self.first : end]
        keys: list[Keys] = [str(found[name]) for name in chosen]
        return Listed([f"images/{self.split}/{name}" for name in chosen], keys)


class Kitti(Reader):
    """KITTI's object pictures by the distance of the nearest car, van or truck, the task of VTAB (arXiv 1910.04867).

    Classes: 0 below 8 m, 1 below 20 m, 2 farther, 3 none.
    """

    kind: Literal["kitti"]

    def read(self, base: Path) -> Listed:
        listing = list_pictures(base / "image_2")
        keys: list[Keys] = []
        for name in listing.sizes:
            file = f"label_2/{Path(name).stem}.txt"
            rows = read_lines(base / file)
            if any(len(row) < 15 for row in rows):
                raise DataError(f"{file}: a line has fewer than the 15 columns of KITTI's objects")
            depth = min((float(row[13]) for row in rows if row[0] in _VEHICLES), default=float("inf"))
            keys.append("3" if depth == float("inf") else "0" if depth < 8 else "1" if depth < 20 else "2")
        sizes = {f"image_2/{name}": size for name, size in listing.sizes.items()}
        return Listed(list(sizes), keys, sizes=sizes)


class Cog(Reader):
    """A level of ImageNet-CoG (arXiv 2012.05649): 1000 concepts of ImageNet-21K each, with its own lists.

    The published lists are pickles; they are read without executing them.

    Attributes:
        level: 1 to 5.
        part: `train` or `test`.
        levels, splits: the files `cog_levels_mapping_file.pkl` and `cog_concepts_split_file.pkl`.
    """

    kind: Literal["cog"]
    level: Literal[1, 2, 3, 4, 5]
    part: Literal["train", "test"]
    levels: str = "cog_levels_mapping_file.pkl"
    splits: str = "cog_concepts_split_file.pkl"

    def read(self, base: Path) -> Listed:
        mapping = [item for batch in read_records(base / self.levels, "CoG levels") for item in batch]
        lists = next(iter(next(read_records(base / self.splits, "CoG splits"))), None)
        if len(mapping) != 5 or not isinstance(lists, dict):
            raise DataError(f"{self.levels} must hold 5 lists and {self.splits} a dict: concept -> train, test")
        files: list[str] = []
        keys: list[Keys] = []
        for synset in sorted(map(str, mapping[self.level - 1])):
            entry = lists.get(synset)
            if not isinstance(entry, dict) or self.part not in entry:
                raise DataError(f"{self.splits} has no '{self.part}' list of the concept {synset}")
            paths = sorted(str(path) for path in entry[self.part])
            files += [path if path.startswith(f"{synset}/") else f"{synset}/{path}" for path in paths]
            keys += [synset] * len(paths)
        return Listed(files, keys)
