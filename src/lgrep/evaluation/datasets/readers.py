"""What can be read from the label files of published sets, described in YAML."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from lgrep.config.schema import Section
from lgrep.data.notices import examples, shown
from lgrep.data.sources.listing import list_pictures
from lgrep.errors import DataError
from lgrep.evaluation.datasets.listed import Keys, Listed, filled, read_lines, read_text


class Reader(Section):
    """Reads some labelled pictures below a base folder."""

    def read(self, base: Path) -> Listed:
        """What the files say.

        Raises:
            DataError: a file is missing or damaged.
        """
        raise NotImplementedError


class Folders(Reader):
    """One folder per class, at any depth below `folder`.

    Attributes:
        folder: below the base.
        label: `first` folder below it is the class, or the `path` of folders.
        leave_out: classes that are none.
    """

    kind: Literal["folders"]
    folder: str = "."
    label: Literal["first", "path"] = "first"
    leave_out: tuple[str, ...] = ()

    def read(self, base: Path) -> Listed:
        root = base / self.folder
        if not root.is_dir():
            raise DataError(f"{shown(base)} has no folder {self.folder}")
        listing = list_pictures(root)
        files = [f for f in listing.sizes if "/" in f and f.partition("/")[0] not in self.leave_out]
        keys: list[Keys] = [f.partition("/")[0] if self.label == "first" else f.rpartition("/")[0] for f in files]
        prefix = "" if self.folder == "." else f"{self.folder.rstrip('/')}/"
        sizes = {prefix + file: listing.sizes[file] for file in files}
        remarks = []
        if listing.left_out:
            remarks.append(f"{len(listing.left_out):,} files are no pictures: {examples(listing.left_out)}")
        there = {file.partition("/")[0] for file in files} | set(self.leave_out)
        empty = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in there)
        empty = [name for name in empty if not name.startswith((".", "__MACOSX"))]
        if empty:
            listed = ", ".join(shown(name) for name in empty[:3]) + ", ..." * (len(empty) > 3)
            remarks.append(f"{len(empty):,} class folders of {self.folder} hold no picture: {listed}")
        return Listed([prefix + file for file in files], keys, sizes=sizes, remarks=remarks)


class Lines(Reader):
    """One picture per line of a text file, cut into fields {0}, {1}, ...

    Attributes:
        file: below the base.
        picture: path of the picture, a template of fields.
        label: class, a template of fields.
        columns: fields of a line at most (the last one holds the rest); None: all.
        separator: between fields; None: blanks.
        skip: lines before the first row.
        pattern: the class is the first group of this regular expression, matched with the filled `label`.
    """

    kind: Literal["lines"]
    file: str
    picture: str = "{0}"
    label: str = "{1}"
    columns: PositiveInt | None = None
    separator: str | None = None
    skip: NonNegativeInt = 0
    pattern: str | None = None

    def read(self, base: Path) -> Listed:
        files: list[str] = []
        keys: list[Keys] = []
        for fields in read_lines(base / self.file, self.columns, self.separator, self.skip):
            files.append(filled(self.picture, fields, self.file).lstrip("/"))
            key = filled(self.label, fields, self.file)
            if self.pattern is not None:
                match = re.search(self.pattern, key)
                if match is None:
                    raise DataError(f"{self.file}: no class can be read from '{key[:60]}'")
                key = match[1]
            keys.append(key)
        return Listed(files, keys)


class Columns(Reader):
    """One picture per row of a CSV file with a header.

    Attributes:
        file: below the base.
        picture, label: templates of columns, for example `images/{Filename}`.
        separator: between columns.
    """

    kind: Literal["csv"]
    file: str
    picture: str
    label: str
    separator: str = ","

    def read(self, base: Path) -> Listed:
        rows = csv.DictReader(io.StringIO(read_text(base / self.file), newline=""), delimiter=self.separator)
        files: list[str] = []
        keys: list[Keys] = []
        try:
            for row in rows:
                fields = {str(name).strip(): str(value).strip() for name, value in row.items()}
                files.append(self.picture.format(**fields))
                keys.append(self.label.format(**fields))
        except (KeyError, csv.Error) as error:
            raise DataError(
                f"{self.file}: no column {error}; it has {', '.join(map(str, rows.fieldnames or ()))}"
            ) from error
        return Listed(files, keys)


class JsonLines(Reader):
    """One picture per line of JSON.

    Attributes:
        file: below the base.
        picture, label, text: fields of a line; `text` null: none.
        folder: of the pictures, below the base.
    """

    kind: Literal["jsonl"]
    file: str
    picture: str
    label: str
    text: str | None = None
    folder: str = ""

    def read(self, base: Path) -> Listed:
        files: list[str] = []
        keys: list[Keys] = []
        captions: list[list[str]] = []
        for number, line in enumerate(read_text(base / self.file).splitlines(), start=1):
            if not line.strip():
                continue
            row = self._row(line, number)
            files.append(self.folder + str(row[self.picture]))
            keys.append(str(row[self.label]))
            captions.append([str(row[self.text])] if self.text is not None and self.text in row else [])
        return Listed(files, keys, captions=captions if any(captions) else [])

    def _row(self, line: str, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self.file}: line {number} is no JSON ({str(error)[:80]})") from error
        missing = [name for name in (self.picture, self.label) if not isinstance(row, dict) or name not in row]
        if missing:
            blind = ": this part was published without labels" if missing == [self.label] else ""
            raise DataError(f"{self.file}: line {number} has no field '{missing[0]}'{blind}")
        return dict(row)


class Joined(Reader):
    """Files whose lines `ID VALUE` belong together by ID.

    Attributes:
        pictures, labels, split: the files.
        parts: value in `split` -> part.
        folder: of the pictures, below the base.
        classes: file of `LABEL NAME` lines.
    """

    kind: Literal["joined"]
    pictures: str
    labels: str
    split: str
    parts: dict[str, Literal["train", "validation", "test"]]
    folder: str = ""
    classes: str | None = None

    def read(self, base: Path) -> Listed:
        columns = []
        for name in (self.pictures, self.labels, self.split):
            rows = read_lines(base / name, 2)
            short = [row for row in rows if len(row) < 2]
            if short:
                raise DataError(f"{name}: the line '{short[0][0][:60]}' has one column, ID and VALUE are needed")
            columns.append(dict(rows))
            doubles = [key for key, value in rows if columns[-1][key] != value]
            if doubles:
                raise DataError(f"{name} has two different lines with the number {doubles[0]}. Copy the archive again")
        for name, column in zip((self.labels, self.split), columns[1:], strict=True):
            lost = [key for key in columns[0] if key not in column] or [key for key in column if key not in columns[0]]
            if lost:
                raise DataError(
                    f"{self.pictures} and {name} do not list the same pictures: {len(lost):,} are in one only, the first "
                    f"has the number {lost[0]}. Copy the archive again"
                )
        files, keys, parts = ([column[key] for key in columns[0]] for column in columns)
        odd = [part for part in parts if part not in self.parts]
        if odd:
            raise DataError(f"{self.split}: '{odd[0][:20]}' is none of {', '.join(self.parts)}")
        names = dict(read_lines(base / self.classes, 2)) if self.classes else {}
        found: list[Keys] = list(keys)
        return Listed([self.folder + f for f in files], found, [self.parts[part] for part in parts], names=names)
