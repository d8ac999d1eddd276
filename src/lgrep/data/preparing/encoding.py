"""What is stored for a picture: its own bytes, or a smaller or other encoding of it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Literal

from PIL import Image
from pydantic import Field, PositiveInt

from lgrep.data.decoding import SCALES, decode_pixels

_STARTS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp", b"II*": "tif"}

Quality = Annotated[int, Field(ge=1, le=100)]


@dataclass(frozen=True)
class Encoding:
    """How pictures are stored.

    A picture that is small enough and in the right format keeps its bytes; it is only decoded, at 1/8 if it is a JPEG.

    Attributes:
        size: the short side of a larger picture becomes this many pixels (antialiased bicubic); None: as it is.
        format: `jpeg`, `png`, or `keep`: where a picture must be encoded anew, JPEG stays JPEG and the rest is PNG.
        quality: of JPEG.
        check: `decode` finds every broken picture; `read` only those without bytes, and is faster.
    """

    size: PositiveInt | None = None
    format: Literal["keep", "jpeg", "png"] = "keep"
    quality: Quality = 95
    check: Literal["decode", "read"] = "decode"

    def __call__(self, data: bytes) -> bytes:
        """The bytes to store.

        Raises:
            PictureError: the picture is broken.
        """
        kind = {"jpg": "jpeg"}.get(suffix_of(data), suffix_of(data))
        wanted = kind if self.format == "keep" else self.format
        if self.size is None and kind == wanted and self.check == "read" and data:
            return data

        def kept(width: int, height: int) -> bool:
            return kind == wanted and (self.size is None or min(width, height) <= self.size)

        seen = decode_pixels(data, lambda width, height: SCALES[0] if kept(width, height) else 1)
        if kept(seen.width, seen.height):
            return data
        picture, short = Image.fromarray(seen.pixels), min(seen.width, seen.height)
        if self.size is not None and short > self.size:
            width, height = (round(side * self.size / short) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        buffer = BytesIO()
        if "jpeg" in (self.format, wanted):
            picture.save(buffer, "JPEG", quality=self.quality)
        else:
            picture.save(buffer, "PNG")
        return buffer.getvalue()


def suffix_of(data: bytes) -> str:
    """The usual ending of a file with this content.

    >>> suffix_of(b"GIF89a"), suffix_of(b"?")
    ('gif', 'img')
    """
    return next((suffix for start, suffix in _STARTS.items() if data.startswith(start)), "img")
