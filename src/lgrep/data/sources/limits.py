"""Pictures that published code passes over."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from lgrep.data.stores import FolderStore

MAX_KILOBYTES = 1024
MAX_RATIO = 20


class ReferenceLimitsStore(FolderStore):
    """Files of at most 1024 kB and an aspect ratio of at most 20 (language-guided SSL's loader for RedCaps).

    Others cannot be read, so that they are replaced and counted like broken pictures.
    """

    def read(self, row: int) -> bytes:
        data = super().read(row)
        if len(data) > 1024 * MAX_KILOBYTES:
            raise ValueError(f"more than {MAX_KILOBYTES} kB (data.reference_behaviour=true)")
        try:
            with Image.open(BytesIO(data), formats=("JPEG", "PNG", "WEBP", "GIF", "BMP")) as picture:
                width, height = picture.size
        except Exception:  # whoever decodes it says what is wrong
            return data
        if max(width, height) > MAX_RATIO * min(width, height):
            raise ValueError(f"an aspect ratio above {MAX_RATIO} (data.reference_behaviour=true)")
        return data

    def subset(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ReferenceLimitsStore:
        return ReferenceLimitsStore(self.root, super().subset(rows).files)


def file_store(root: Path, reference_behaviour: bool, pictures: pa.Table) -> FolderStore:
    """The store of the files below `root` that the column `files` names."""
    return (ReferenceLimitsStore if reference_behaviour else FolderStore)(root, pictures["files"])
