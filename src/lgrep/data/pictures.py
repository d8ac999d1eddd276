"""Decoding: encoded bytes of any common format to an upright 8-bit RGB picture."""

from __future__ import annotations

import functools
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # 256 MB of RGB, the size at which Pillow starts to warn
_EXIF_ORIENTATION = 0x0112
# Pixel formats only: others run programs (EPS starts Ghostscript) or are documents.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class PictureError(ValueError):
    """The bytes are no picture that can be shown; the message is a short reason."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data`, upright and in RGB.

    The EXIF orientation is applied, transparency is laid on white, deep pictures are scaled to 8 bits, and
    of animations the first frame is taken. Colour profiles are ignored.

    Args:
        data: an encoded JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, JPEG 2000, ICO or TGA file.
        max_pixels: refuse larger pictures; read from the header, before any pixel is decoded.

    Raises:
        PictureError: empty, unknown, truncated, broken or too large.
    """
    if not data:
        raise PictureError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            picture: Image.Image = Image.open(BytesIO(data), formats=_formats())
        width, height = picture.size
        if width * height > max_pixels:
            raise PictureError(f"{width} x {height} pixels, more than the limit of {max_pixels}")
        picture.load()
        return to_rgb(_upright(picture))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"no known picture format (starts with {data[:8]!r})") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"more pixels than the limit of {max_pixels}") from error
    except Exception as error:  # decoders of broken files raise almost anything
        raise PictureError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB: transparency on white, deep grey scaled to 8 bits, CMYK and others converted.

    Integer grey is taken as 16-bit when it fits, else scaled by its maximum; floats by the smallest of 1, 255
    and 65535 that holds their maximum. Negative values and NaN become black.
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


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
        return picture if orientation == 1 else ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return picture


def _deep_to_rgb(picture: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), posinf=0.0, neginf=0.0)
    highest = float(values.max())
    limits = (1.0, 255.0, 65535.0) if picture.mode == "F" else (65535.0,)
    full = next((limit for limit in limits if highest <= limit), highest)
    scaled = np.rint(np.clip(values / full, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")
