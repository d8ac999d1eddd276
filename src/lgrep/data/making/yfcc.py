"""The captions of YFCC15M, from the lists that Flickr's and OpenAI's releases consist of."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from lgrep.data.making.parts import Passed, table_from_lines
from lgrep.data.notices import reason_of, shown
from lgrep.errors import DataError

_MOST_INDEX = 10**8
_TAGS = re.compile(r"<a\b[^>]*>|</a>|</?b>|</?i>")
_ADDRESSES = re.compile(r"(?:http|www)\S+")
_COLUMNS = pa.schema([("index", pa.int64()), ("captions", pa.list_(pa.string()))])
_INDEX, _TITLE, _DESCRIPTION = 0, 8, 9  # columns of yfcc100m_dataset.txt


def make_yfcc15m(out: Path, dataset: str, subset: str, downloaded: str | None = None) -> str:
    """Write the captions of YFCC15M as SLIP and CLIP-rocket define them (arXiv 2112.12750): 14,689,580 pictures there.

    A picture is in the set when its index is in OpenAI's list and among the downloaded ones. Title and description are
    URL-decoded; plus signs become spaces; a, b and i tags and addresses (http..., www...) are removed.

    Args:
        out: Parquet file to write, for `data=yfcc15m data.metadata=OUT`: columns `index` and `captions` (title and
            description, as far as they are not empty).
        dataset: `yfcc100m_dataset.txt`, tab-separated: column 0 index, 8 title, 9 description.
        subset: OpenAI's `yfcc100m_subset_data.tsv`: column 0 index.
        downloaded: `flickr_unique_ids.npy`, the indices of the pictures that are there; None: all.

    Returns:
        A sentence that counts the rows.

    Raises:
        DataError: an input cannot be read, or the disk is full.
    """
    wanted = np.zeros(_MOST_INDEX, bool)
    wanted[_first_column(Path(subset))] = True
    if downloaded is not None:
        there = np.zeros(_MOST_INDEX, bool)
        there[_indices(Path(downloaded))] = True
        wanted &= there

    def parse(line: bytes, number: int) -> tuple[int, list[str]] | Passed:
        first, _, rest = line.partition(b"\t")
        if not first.isdigit() or int(first) >= _MOST_INDEX:
            return Passed("no index of at most 8 digits")
        index = int(first)
        if not wanted[index]:
            return Passed("not in the set", wrong=False)
        columns = rest.split(b"\t")
        if len(columns) < _DESCRIPTION:
            return Passed("fewer than 10 columns")
        texts = [clean_flickr(columns[i - 1].decode("utf-8", "replace")) for i in (_TITLE, _DESCRIPTION)]
        return index, [text for text in texts if text]

    digest = hashlib.sha256(np.packbits(wanted).tobytes()).hexdigest()
    return table_from_lines(Path(dataset), out, _COLUMNS, parse, {"wanted": digest, "made": 1}, "make.dataset")


def clean_flickr(text: str) -> str:
    """A title or description as the published recipe cleans it.

    >>> clean_flickr('A+%22red%22+%3Cb%3Edoor%3C%2Fb%3E+http%3A%2F%2Fa.org%2Fb+open')
    'A "red" door  open'
    """
    decoded = unquote(text).replace("+", " ")
    return _ADDRESSES.sub("", _TAGS.sub("", decoded)).strip()


def _first_column(file: Path) -> np.ndarray[Any, Any]:
    try:
        with file.open("rb") as lines:
            firsts = (line.partition(b"\t")[0].strip() for line in lines)
            found = np.fromiter((int(first) for first in firsts if first.isdigit()), np.int64)
    except OSError as error:
        raise DataError(f"make.subset={shown(file)} cannot be read ({reason_of(error)})") from error
    return _checked(found, f"make.subset={shown(file)}")


def _indices(file: Path) -> np.ndarray[Any, Any]:
    place = f"make.downloaded={shown(file)}"
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{place} is no readable .npy array of numbers ({str(error).splitlines()[0][:100]})") from error
    if not np.issubdtype(found.dtype, np.integer):
        raise DataError(f"{place} is an array of {found.dtype}, not of whole numbers")
    return _checked(np.asarray(found).reshape(-1), place)


def _checked(found: np.ndarray[Any, Any], place: str) -> np.ndarray[Any, Any]:
    if not len(found):
        raise DataError(f"{place} holds no index")
    if found.min() < 0 or found.max() >= _MOST_INDEX:
        raise DataError(
            f"{place} holds {found.min()}..{found.max()}; indices of YFCC100M are 0..{_MOST_INDEX - 1} (the column "
            "`index`, not Flickr's own photo number)"
        )
    return found
