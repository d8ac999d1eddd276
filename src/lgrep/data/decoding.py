"""Fast decoding: JPEG files straight to arrays; every other file through the reference, `pictures.decode`.

Pixels are those of the reference to the byte, unless a smaller scale is asked for. `docs/speed.md` has the libraries
that were measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

from lgrep.data.pictures import MAX_PIXELS, MAX_RATIO, decode

SCALES = (8, 4, 2)  # libjpeg-turbo has fast inverse transforms for these, not for 3, 5, 6 and 7
_EXIF_ORIENTATION = 0x0112
_JPEG, _START_OF_SCAN = b"\xff\xd8\xff", 0xDA


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, 3], upright RGB; W = ceil(width / scale), H = ceil(height / scale).
        width, height: of the whole picture.
        scale: by what its sides were divided while decoding (1, 2, 4 or 8).
        scalable: whether the file could have been decoded at another scale.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    scale: int = 1
    scalable: bool = False


def decode_pixels(
    data: bytes, shrink: Callable[[int, int], int] | None = None, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """The picture in `data` as an array.

    Args:
        data: an encoded picture of any format that `pictures.decode` takes.
        shrink: gets width and height, says by what both may be divided (1, 2, 4 or 8); asked for JPEG files only,
            before any pixel is decoded. None: the whole picture.
        max_pixels: see `pictures.decode`.

    Raises:
        PictureError: as `pictures.decode` does, with its reasons.
    """
    size = _plain_jpeg_size(data, max_pixels)
    if size is not None:
        width, height = size
        scale = 1 if shrink is None else shrink(width, height)
        pixels = _decode_jpeg(data, -(-width // scale), -(-height // scale))
        if pixels is not None:
            return Decoded(pixels, width, height, scale, scalable=True)
    whole = np.asarray(decode(data, max_pixels))
    return Decoded(whole, whole.shape[1], whole.shape[0])


def _plain_jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """Width and height of a JPEG that needs nothing but decoding, else None."""
    if not data.startswith(_JPEG):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    if colours != "YCbCr" or width * height > limit or max(width, height) > MAX_RATIO * min(width, height):
        return None
    # Pillow finds an orientation in EXIF and in XMP.
    header = data[: _header_length(data)]
    if (b"Exif" in header or b"Orientation" in header) and not _is_upright(data):
        return None
    return width, height


def _header_length(data: bytes) -> int:
    """Bytes before the first scan; all of them where segments do not follow each other as they should."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == _START_OF_SCAN:
            return place
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return len(data)


def _is_upright(data: bytes) -> bool:
    try:
        return bool(Image.open(BytesIO(data), formats=("JPEG",)).getexif().get(_EXIF_ORIENTATION, 1) == 1)
    except Exception:  # metadata can be broken in many ways; the reference decides
        return False


def _decode_jpeg(data: bytes, width: int, height: int) -> NDArray[np.uint8] | None:
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, min_width=width, min_height=height, min_factor=1
        )
    except (ValueError, MemoryError):  # also of files that decode with a warning
        return None
    return pixels if pixels.shape == (height, width, 3) else None
