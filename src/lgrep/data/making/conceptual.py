"""Tables of CC3M and CC12M, from the published lists of captions and addresses and the pictures downloaded from them."""

from __future__ import annotations

import hashlib
import string
import zlib
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lgrep.data.making.parts import Passed, table_from_lines
from lgrep.data.notices import shown
from lgrep.data.records import Unusable, safe_path
from lgrep.data.sources.listing import check_folder
from lgrep.errors import ConfigError, DataError

_NAME = {"cc3m": "image_id", "cc12m": "image_name"}  # what the published files call a picture's file


def make_conceptual(
    out: Path, layout: Literal["cc3m", "cc12m"], tsv: str, root: str, files: str = "{line:09d}.jpg"
) -> str:
    """Write which downloaded picture has which caption, for `data=cc3m` or `data=cc12m` with `data.metadata=OUT`.

    Lines whose picture is missing or empty are passed over.

    Args:
        out: Parquet file to write: columns `image_id` (CC3M) or `image_name` (CC12M), `captions`, `url`.
        layout: `cc3m`: lines are caption<TAB>address; `cc12m`: address<TAB>caption.
        tsv: the published list (`Train_GCC-training.tsv`, `cc12m.tsv`), without header.
        root: folder of the pictures.
        files: how the downloader named a picture below `root`: `{line}` is the line's number from 0 (`{line:09d}`
            with nine digits), `{shard}` that number divided by 1000, `{crc32}`, `{md5}` and `{sha1}` are of the
            address.

    Returns:
        A sentence that counts the rows.

    Raises:
        ConfigError: `files` is no such pattern.
        DataError: an input cannot be read, no picture is found, or the disk is full.
    """
    _check_pattern(files)
    folder = check_folder(root, "make.root", "of the downloaded pictures")
    if not Path(tsv).is_file():
        raise DataError(f"make.tsv={shown(tsv)} is no file. Type make.tsv=FILE.tsv")
    swapped = layout == "cc12m"

    def parse(line: bytes, number: int) -> tuple[str, list[str], str] | Passed:
        columns = line.split(b"\t")
        if len(columns) != 2:
            return Passed(f"{'fewer' if len(columns) < 2 else 'more'} than 2 columns")
        try:
            texts = [column.decode("utf-8").strip() for column in columns]
        except UnicodeDecodeError:
            return Passed("no UTF-8")
        caption, url = reversed(texts) if swapped else texts
        try:
            name = safe_path(files.format_map(_Fields(number, url)))
        except Unusable:
            return Passed("no safe file name")
        if not caption:
            return Passed("without a caption")
        if not _has_content(folder / name):
            return Passed("without a downloaded picture", wrong=False)
        return name, [caption], url

    schema = pa.schema([(_NAME[layout], pa.string()), ("captions", pa.list_(pa.string())), ("url", pa.string())])
    settings = {"layout": layout, "root": str(folder.absolute()), "files": files, "made": 1}
    return table_from_lines(Path(tsv), out, schema, parse, settings, "make.tsv")


class _Fields(dict[str, Any]):
    """What a pattern may use; hashes are computed when they are asked for."""

    def __init__(self, number: int, url: str) -> None:
        super().__init__(line=number, shard=number // 1000)
        self.url = url

    def __missing__(self, name: str) -> Any:
        data = self.url.encode()
        return zlib.crc32(data) if name == "crc32" else hashlib.new(name, data).hexdigest()


_FIELDS = ("line", "shard", "crc32", "md5", "sha1")


def _check_pattern(files: str) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(files) if name is not None]
        example = files.format_map(_Fields(7, "")) if set(names) <= set(_FIELDS) else ""
    except (ValueError, IndexError, KeyError):
        names, example = [], ""
    if not names or not example:
        raise ConfigError(
            f"make.files={files!r} names no file per picture. Use {', '.join(f'{{{name}}}' for name in _FIELDS)}, e.g. "
            "'make.files=\"{shard:05d}/{line:09d}.jpg\"'"
        )


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except (OSError, ValueError):
        return False
