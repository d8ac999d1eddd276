"""Published data sets, read in the layout of their archives or as prepared by scripts/prepare_data.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lgrep.config.schema import Section
from lgrep.data.notices import notice, shown
from lgrep.data.table import Table, open_set
from lgrep.errors import DataError
from lgrep.evaluation.contract import Metric
from lgrep.evaluation.datasets import arrays, published_readers, readers
from lgrep.evaluation.datasets.labelled import Labelled, labelled
from lgrep.evaluation.datasets.listed import PARTS, Listed
from lgrep.evaluation.datasets.missing import MissingDataset, data_root
from lgrep.evaluation.datasets.names import Names, class_names_of, imagenet_indices, templates_of
from lgrep.evaluation.datasets.split_files import read_split_files
from lgrep.evaluation.datasets.splitting import PartName, SplitRule
from lgrep.evaluation.datasets.table_set import Rows, TableSet, rows_by_part
from lgrep.evaluation.datasets.torchvision_set import Download, fetch

ABOUT = "evaluation"  # key of `set.json` with what a prepared set is as an evaluation set

ReaderSpec = Annotated[
    readers.Folders
    | readers.Lines
    | readers.Columns
    | readers.JsonLines
    | readers.Joined
    | published_readers.MatRecords
    | published_readers.MatNumbers
    | published_readers.Voc
    | published_readers.Coco
    | published_readers.Clevr
    | published_readers.Kitti
    | published_readers.Cog
    | arrays.Cifar
    | arrays.CifarPython
    | arrays.Stl10
    | arrays.Idx
    | arrays.H5
    | arrays.PixelCsv
    | arrays.Frames,
    Field(discriminator="kind"),
]


class Layout(Section):
    """How the files of a set lie.

    Attributes:
        folders: below the root, or below a folder of the set's name in it: where the files may be.
        needs: files or folders that tell the layout, below such a folder.
        parts: `train`, `validation`, `test`, or `all` (the reader or `split` says) -> readers.
    """

    folders: tuple[str, ...] = (".",)
    needs: tuple[str, ...]
    parts: dict[Literal["train", "validation", "test", "all"], ReaderSpec | list[ReaderSpec]]


class PublishedSet(TableSet):
    """A data set in the layout that its authors (or torchvision) give it.

    Args:
        name: of the set.
        layouts: the layouts it is found in; the first that fits is read.
        archives: what to download, for messages and `scripts/prepare_data.py make=dataset`.
        home: who publishes them, in words.
        sizes: published number of pictures of every part.
        classes: published number of classes.
        metric: what its leaderboard counts.
        names: class names; see `lgrep.evaluation.datasets.names.class_names_of`.
        first: label of the first class where labels are numbers of the names; None: classes are those found.
        templates: prompts; see `lgrep.evaluation.datasets.names.templates_of`.
        split: draws parts of a set that was published without.
        remarks: protocol footnotes.
        not_comparable: why numbers differ from the published ones, unless `splits` is given.
        torchvision: class that downloads it, and the arguments of each call.
        imagenet: whether classes are synsets of ImageNet-1K, or their numbers.
        root: folder of all data sets; None: LGREP_DATA or ./datasets.
        splits: CSV file with the columns `file` and `part`, or a folder of `train.txt`, `validation.txt`, `test.txt`
            with one path per line: index lists that replace the parts.
        download: let torchvision download it.
        max_left_out: largest share of listed pictures that may be absent.
        statistics: see `TableSet`.

    Raises:
        MissingDataset: it is not there.
        DataError: it is damaged.
    """

    def __init__(
        self,
        name: str,
        layouts: list[Layout],
        archives: tuple[str, ...] = (),
        home: str = "its authors",
        sizes: dict[PartName, PositiveInt] | None = None,
        classes: NonNegativeInt | None = None,
        metric: Metric = "top1",
        names: Names = None,
        first: Literal[0, 1] | None = None,
        templates: list[str] | str = "generic",
        split: SplitRule | None = None,
        remarks: tuple[str, ...] = (),
        not_comparable: str | None = None,
        torchvision: Download | None = None,
        imagenet: bool = False,
        root: str | None = None,
        splits: str | None = None,
        download: bool = False,
        max_left_out: Annotated[float, Field(ge=0, le=1)] = 0.1,
        statistics: Literal["imagenet", "sample"] = "imagenet",
    ) -> None:
        self.root = data_root(root)
        self.archives, self.home, self.layouts = archives, home, layouts
        self._names, self._first, self._split, self._imagenet = names, first, split, imagenet
        self._max_left_out = max_left_out
        if not_comparable and splits is None:
            remarks = (*remarks, f"not comparable: {not_comparable}")
        if download and self._find(name) is None:
            self._download(name, torchvision)
        self.table, self.about = self._open(name, splits, torchvision)
        rows = rows_by_part(self.table)
        said = [*self.about["remarks"], *_unexpected(rows, sizes or {}, len(self.about["class_names"]), classes)]
        for line in said:
            notice(f"{name}: {line}")
        prompts, whose = templates_of(templates)
        settings = {"splits": splits} if splits else split.model_dump() if split else {}
        super().__init__(
            name,
            rows,
            self.about["class_names"],
            prompts,
            metric,
            (*remarks, *said, whose),
            statistics=statistics,
            captions=self.about["captions"],
            imagenet_classes=self.about["imagenet_classes"],
            settings=settings,
        )

    def _download(self, name: str, torchvision: Download | None) -> None:
        if torchvision is None:
            raise MissingDataset(f"{name} cannot be downloaded by torchvision. {self._advice(name, None)}")
        fetch(name, torchvision, self.root)

    def _open(self, name: str, splits: str | None, torchvision: Download | None) -> tuple[Table, dict[str, Any]]:
        """As prepared, unless index lists ask for the published files."""
        prepared = self.root / name
        if splits is None and (prepared / "set.json").is_file():
            return _open_prepared(prepared)
        return self._read(name, splits, torchvision)

    def _read(self, name: str, splits: str | None, torchvision: Download | None) -> tuple[Table, dict[str, Any]]:
        place = self._find(name)
        if place is None:
            first = self.layouts[0]
            looked = "set.json or " + str(Path(first.folders[0]) / first.needs[0])
            raise MissingDataset(
                f"{name} is not in {shown(self.root / name)} (no {looked}). {self._advice(name, torchvision)}"
            )
        layout, base = place
        lists: dict[str, list[Listed]] = {str(part): _read_all(spec, base) for part, spec in layout.parts.items()}
        given = read_split_files(Path(splits).expanduser()) if splits else None
        found = labelled(name, base, lists, self._split, self._classes(base), self._max_left_out, given)
        return found.table, self._about(found, base)

    def _classes(self, base: Path) -> list[str] | None:
        """Labels of all named classes, where they are numbers."""
        if self._first is None or self._names is None:
            return None
        count = 1000 if self._names == "imagenet" else len(class_names_of(self._names, (), {}, base))
        return [str(number + self._first) for number in range(count)]

    def _about(self, found: Labelled, base: Path) -> dict[str, Any]:
        class_names = class_names_of(self._names, found.keys, found.names, base)
        if len(class_names) != len(found.keys):
            raise DataError(f"{len(class_names):,} class names for {len(found.keys):,} classes in {shown(base)}")
        return {
            "class_names": class_names,
            "captions": found.has_captions,
            "remarks": found.remarks,
            "imagenet_classes": imagenet_indices(found.keys) if self._imagenet else [],
        }

    def _find(self, name: str) -> tuple[Layout, Path] | None:
        for layout in self.layouts:
            for folder in layout.folders:
                for base in (self.root / name / folder, self.root / folder):
                    if all((base / path).exists() for path in layout.needs):
                        return layout, base
        return None

    def _advice(self, name: str, torchvision: Download | None) -> str:
        needed = " and ".join(self.archives) or "the published files"
        download = (
            f"; or let torchvision download it with options.{name}.download=true" if torchvision is not None else ""
        )
        return (
            f"Get {needed} from {self.home} into DIR and type python scripts/prepare_data.py make=dataset "
            f"make.dataset={name} make.archives=DIR out={shown(self.root / name)}{download}"
        )


def _open_prepared(folder: Path) -> tuple[Table, dict[str, Any]]:
    table = open_set(folder)
    about = json.loads((folder / "set.json").read_text(encoding="utf-8")).get(ABOUT)
    kinds = {"class_names": list, "captions": bool, "remarks": list, "imagenet_classes": list}
    if not isinstance(about, dict) or not all(isinstance(about.get(key), kind) for key, kind in kinds.items()):
        raise DataError(
            f"{shown(folder)} was not prepared as an evaluation set. Type python scripts/prepare_data.py make=dataset ..., "
            "or dataset=folder for any labelled set"
        )
    if not table.has("part"):
        raise DataError(f"{shown(folder)}/pictures.arrow lacks the column part. Prepare the set again")
    return table, about


def _read_all(spec: Any, base: Path) -> list[Listed]:
    return [reader.read(base) for reader in (spec if isinstance(spec, list) else [spec])]


def _unexpected(
    rows: Mapping[str, tuple[Table, Rows]], published: Mapping[Any, int], classes: int, published_classes: int | None
) -> list[str]:
    """A line for every part, and for the classes, whose number is not the published one."""
    found = {part: len(rows[part][1]) if part in rows else 0 for part in PARTS}
    lines = [
        f"{part}: {found[part]:,} pictures were found, {published[part]:,} were published"
        for part in PARTS
        if part in published and found[part] != published[part]
    ]
    if published_classes is not None and classes != published_classes:
        lines.append(f"{classes:,} classes were found, {published_classes:,} were published")
    return lines
