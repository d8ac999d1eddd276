"""Decoding: encoded bytes of any common format to an upright 8-bit RGB picture."""

from __future__ import annotations

import functools
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # 512 MB of RGB; Pillow itself refuses more
MAX_RATIO = 256  # thinner pictures grow to gigabytes as soon as a transform resizes their short side
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _MIN_IS_WHITE = 258, 262, 0
# Pixel formats only: others run programs (EPS starts Ghostscript) or are documents.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_BLOCK = 2**22  # deep pixels scaled at a time
_STDERR = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # or its remarks on broken files go to the terminal
_STARTS = (  # what downloads leave in place of a picture, by its first bytes
    (b"\xff\xd8\xff", "a JPEG file with a broken header"),
    (b"\x89PNG\r\n\x1a\n", "a PNG file with a broken header"),
    (b"GIF8", "a GIF file with a broken header"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: type git lfs pull"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)


class PictureError(ValueError):
    """The bytes are no picture that can be shown; the message is a short reason."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data`, upright and in RGB.

    The EXIF orientation is applied, transparency is laid on white, deep pictures are scaled to 8 bits, and
    of animations the first frame is taken. Colour profiles are ignored. The content decides, not a file's name.

    Args:
        data: an encoded JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, JPEG 2000, ICO or TGA file.
        max_pixels: refuse larger pictures; read from the header, before any pixel is decoded. Pillow's own limit
            (twice `PIL.Image.MAX_IMAGE_PIXELS`) holds besides.

    Raises:
        PictureError: empty, unknown, truncated, broken, too large or too thin. Nothing else is raised.
    """
    if not data:
        raise PictureError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, one per picture; the size limit is checked here
            picture: Image.Image = Image.open(BytesIO(data), formats=_formats())
            _check_size(*picture.size, max_pixels)
            with _quiet_stderr() if picture.format == "TIFF" else nullcontext():
                picture.load()
            return to_rgb(_upright(picture))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(_what_instead(data)) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"more pixels than the limit of {max_pixels:,}") from error
    except MemoryError as error:
        raise PictureError("cannot be decoded: it asks for more memory than there is") from error
    except Exception as error:  # decoders of broken files raise almost anything
        raise PictureError(f"cannot be decoded: {str(error)[:200] or type(error).__name__}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB: transparency on white, deep grey scaled to 8 bits, CMYK and others converted.

    Integer grey is taken as 16-bit when it fits (12-bit TIFF: as 12-bit), else scaled by its maximum; floats by the
    smallest of 1, 255 and 65535 that holds their maximum. Negative values and NaN become black.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in _DEEP:
        return _deep_to_rgb(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return picture.convert("RGB")


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureError(f"{width} x {height} pixels, more than the limit of {max_pixels:,}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise PictureError(f"{width} x {height} pixels, one side more than {MAX_RATIO} times the other")


def _what_instead(data: bytes) -> str:
    for start, what in _STARTS:
        if data.startswith(start):
            return what
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "a HEIC picture, which is not read: convert it to JPEG"
    text = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML), no picture"
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG or XML text, no picture"
    return f"no known picture format (starts with {data[:8]!r})"


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """For libtiff, which writes a line to the terminal for every broken row of a file, past Python."""
    with _STDERR, open(os.devnull, "wb") as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
        return picture if orientation == 1 else ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return picture


def _deep_to_rgb(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    full = _full_scale(values, picture.mode, tags)
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, picture.width))
    for top in range(0, len(values), rows):  # in blocks: as float64 a large picture would take gigabytes
        block = np.nan_to_num(values[top : top + rows].astype(np.float64), posinf=0.0, neginf=0.0)
        scaled[top : top + rows] = np.rint(np.clip(block / full, 0.0, 1.0) * 255.0)
    if tags.get(_TIFF_PHOTOMETRIC) == _MIN_IS_WHITE:
        scaled = 255 - scaled  # Pillow inverts 8-bit TIFFs only
    return Image.fromarray(scaled).convert("RGB")


def _full_scale(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], mode: str, tags: dict[int, object]) -> float:
    """The value that becomes 255."""
    highest = float(np.max(values, initial=0.0, where=np.isfinite(values)))
    if mode == "F":
        limits: tuple[float, ...] = (1.0, 255.0, 65535.0)
    else:
        limits = (4095.0, 65535.0) if tags.get(_TIFF_BITS) == (12,) else (65535.0,)
    return next((limit for limit in limits if highest <= limit), highest)
