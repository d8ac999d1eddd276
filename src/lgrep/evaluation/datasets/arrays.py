"""Sets that are published as arrays of pixels, not as picture files."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from lgrep.data.notices import reason_of, shown
from lgrep.errors import DataError
from lgrep.evaluation.datasets.listed import Keys, Listed, read_lines, read_text
from lgrep.evaluation.datasets.readers import Reader

_IDX_UBYTE = 8


class PixelStore:
    """Pictures of an array, given as PNG files (which lose nothing).

    Args:
        pixels: uint8 arrays [N, H, W] or [N, H, W, 3], one after the other.
        rows: rows of them that the store's own stand for; None: all.
    """

    def __init__(self, pixels: list[Any], rows: np.ndarray[Any, Any] | None = None) -> None:
        self.pixels = pixels
        self.starts = np.cumsum([0, *(len(array) for array in pixels)])
        self.rows = np.arange(self.starts[-1]) if rows is None else rows

    def read(self, row: int) -> bytes:
        """PNG bytes of picture `row`."""
        number = int(self.rows[row])
        array = int(np.searchsorted(self.starts, number, side="right")) - 1
        buffer = io.BytesIO()
        values = np.asarray(self.pixels[array][number - int(self.starts[array])])
        Image.fromarray(values).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def locate(self, row: int) -> str:
        """Where the pixels are, for messages."""
        return f"row {int(self.rows[row])} of the arrays"

    def subset(self, rows: np.ndarray[Any, Any]) -> PixelStore:
        """The same store with picture `rows[i]` as row `i`."""
        return PixelStore(self.pixels, self.rows[rows])


class H5Pixels:
    """Dataset `name` of an HDF5 file as an array of pictures; each process opens the file for itself."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._length = int(_h5_array(path, name).shape[0])
        self._opened: Any = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Any:
        if self._opened is None:
            self._opened = _h5_array(self.path, self.name)
        return self._opened[row]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


class Cifar(Reader):
    """CIFAR's binary archive (`*.bin`): label bytes, then 3 x 32 x 32 bytes, per picture.

    Attributes:
        files: of the part.
        labels: label bytes before the pixels; the last one is the class.
    """

    kind: Literal["cifar"]
    files: tuple[str, ...]
    labels: Literal[1, 2] = 1

    def read(self, base: Path) -> Listed:
        width = self.labels + 3072
        rows = np.concatenate([_records(base / name, width) for name in self.files])
        pixels = rows[:, self.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return _numbered(pixels, rows[:, self.labels - 1].tolist())


class CifarPython(Reader):
    """CIFAR's Python archive through torchvision, which unpickles only files of the published MD5 sums.

    Attributes:
        dataset: torchvision's class.
        train: which part.
    """

    kind: Literal["cifar_python"]
    dataset: Literal["CIFAR10", "CIFAR100"]
    train: bool

    def read(self, base: Path) -> Listed:
        import torchvision

        try:
            data = getattr(torchvision.datasets, self.dataset)(base.parent, train=self.train)
        except RuntimeError as error:
            raise DataError(
                f"{shown(base)} does not have the published MD5 sums, and is a pickle. Copy it again, or take the "
                "binary version (*-binary.tar.gz)"
            ) from error
        return _numbered(data.data, data.targets)


class Stl10(Reader):
    """STL-10's binary files: pictures column by column, labels from 1."""

    kind: Literal["stl10"]
    pictures: str
    labels: str

    def read(self, base: Path) -> Listed:
        pixels = _records(base / self.pictures, 3 * 96 * 96).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        return _numbered(pixels, _records(base / self.labels, 1)[:, 0].tolist())


class Idx(Reader):
    """MNIST's IDX files, packed by gzip or not."""

    kind: Literal["idx"]
    pictures: str
    labels: str

    def read(self, base: Path) -> Listed:
        return _numbered(_idx(base, self.pictures, 3), _idx(base, self.labels, 1).tolist())


class H5(Reader):
    """Two HDF5 files: pictures in the dataset `x`, labels in `y`. Needs the package h5py."""

    kind: Literal["h5"]
    pictures: str
    labels: str

    def read(self, base: Path) -> Listed:
        labels = np.asarray(_h5_array(base / self.labels, "y")[:]).reshape(-1).tolist()
        return _numbered(H5Pixels(base / self.pictures, "x"), labels)


class PixelCsv(Reader):
    """FER2013's CSV file: emotion, 48 x 48 grey values as text, usage.

    Attributes:
        file: below the base.
        usage: of the part.
    """

    kind: Literal["pixel_csv"]
    file: str
    usage: str

    def read(self, base: Path) -> Listed:
        pixels, labels = [], []
        rows = csv.DictReader(io.StringIO(read_text(base / self.file)), skipinitialspace=True)
        for row in rows:
            try:
                if row["Usage"].strip() != self.usage:
                    continue
                labels.append(int(row["emotion"]))
                pixels.append(np.array(row["pixels"].split(), np.uint8).reshape(48, 48))
            except (KeyError, ValueError, AttributeError, OverflowError) as error:
                raise DataError(f"{self.file}: line {rows.line_num} is damaged ({error})") from error
        return _numbered(np.stack(pixels) if pixels else np.zeros((0, 48, 48), np.uint8), labels)


def _numbered(pixels: Any, labels: list[int]) -> Listed:
    if len(pixels) != len(labels):
        raise DataError(f"{len(pixels):,} pictures with {len(labels):,} labels; one label each is needed")
    keys: list[Keys] = [str(int(label)) for label in labels]
    return Listed([f"{number:06d}" for number in range(len(labels))], keys, pixels=pixels)


def _records(path: Path, width: int) -> np.ndarray[Any, Any]:
    """uint8 [N, width], mapped."""
    try:
        values = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be read ({reason_of(error)})") from error
    if len(values) % width:
        raise DataError(
            f"{shown(path)} has {len(values):,} bytes, no multiple of {width:,}: it is cut short. Copy it again"
        )
    return values.reshape(-1, width)


def _idx(base: Path, name: str, rank: int) -> np.ndarray[Any, Any]:
    path = base / name if (base / name).is_file() else base / f"{name}.gz"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{shown(path)} cannot be read ({reason_of(error)})") from error
    header = 4 + 4 * rank
    if data[:4] != bytes([0, 0, _IDX_UBYTE, rank]) or len(data) < header:
        raise DataError(f"{shown(path)} is no IDX file of bytes with {rank} dimensions")
    shape = np.frombuffer(data, ">u4", rank, 4).astype(int).tolist()
    if len(data) - header != int(np.prod(shape)):
        raise DataError(f"{shown(path)} holds {len(data) - header:,} bytes, its header says {shape}. Copy it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _h5_array(path: Path, name: str) -> Any:
    try:
        import h5py  # type: ignore[import-untyped, import-not-found]
    except ImportError as error:
        raise DataError(f"{shown(path)} is an HDF5 file: type pip install h5py") from error
    try:
        return h5py.File(path, "r")[name]
    except (OSError, KeyError) as error:
        raise DataError(f"{shown(path)} has no dataset '{name}' that can be read ({str(error)[:80]})") from error


class Frames(Reader):
    """The middle frame of every video of a list, decoded by OpenCV when it is read.

    Attributes:
        file: one video per line, `CLASS/VIDEO` first.
        folder: of the videos, below the base.
    """

    kind: Literal["frames"]
    file: str
    folder: str

    def read(self, base: Path) -> Listed:
        videos = [row[0] for row in read_lines(base / self.file)]
        keys: list[Keys] = [video.partition("/")[0] for video in videos]
        return Listed(videos, keys, pixels=MiddleFrames(base / self.folder, videos))


class MiddleFrames:
    """The middle frames of videos as an array of pictures.

    Args:
        root: folder.
        videos: files below it.
    """

    def __init__(self, root: Path, videos: list[str]) -> None:
        self.root, self.videos = root, videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Any:
        import cv2

        path = self.root / self.videos[row]
        video = cv2.VideoCapture(str(path))
        try:
            video.set(cv2.CAP_PROP_POS_FRAMES, int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // 2)
            found, frame = video.read()
        finally:
            video.release()
        if not found:
            raise ValueError(f"{shown(path)} is no video that can be decoded, or is absent")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
