"""Fast decoding against the reference."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from made import picture
from PIL import Image

from lgrep.data import decoding
from lgrep.data.decoding import decode_pixels
from lgrep.data.pictures import PictureError, decode


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reference(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(decode(data))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("width", "height"), [(41, 37), (64, 48), (1, 1), (3, 200), (17, 8)])
def test_jpeg_is_equal_to_the_byte(subsampling: int, progressive: bool, width: int, height: int) -> None:
    rng = np.random.default_rng(width)
    for image in (
        picture(width, width, height),
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)),
    ):
        for quality in (20, 90):
            data = encoded(image, quality=quality, subsampling=subsampling, progressive=progressive)
            decoded = decode_pixels(data)
            assert decoded.scalable  # it took the fast way
            assert (decoded.width, decoded.height, decoded.scale) == (width, height, 1)
            assert np.array_equal(decoded.pixels, reference(data))


OTHERS = {
    "grey": lambda: encoded(picture(0).convert("L")),
    "cmyk": lambda: encoded(picture(0).convert("CMYK")),
    "png": lambda: encoded(picture(0), "PNG"),
    "webp": lambda: encoded(picture(0), "WEBP"),
    "gif": lambda: encoded(picture(0), "GIF"),
    "rgb jpeg": lambda: encoded(picture(0), keep_rgb=True),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_take_the_reference(kind: str) -> None:
    data = OTHERS[kind]()
    decoded = decode_pixels(data, lambda width, height: 2)
    assert decoded.scale == 1 and not decoded.scalable
    assert np.array_equal(decoded.pixels, reference(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["exif", "xmp"])
def test_orientation(orientation: int, where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()
    data = encoded(picture(1, 40, 30), **({"exif": exif} if where == "exif" else {"xmp": xmp}))
    decoded = decode_pixels(data)
    assert np.array_equal(decoded.pixels, reference(data))
    assert (decoded.width, decoded.height) == ((40, 30) if orientation < 5 else (30, 40))
    assert decoded.scalable == (orientation == 1)


@pytest.mark.parametrize("first", [b"\xff\xe0" + (40).to_bytes(2) + b"\xff\xda" * 19, b"\xff" * 3])
def test_an_orientation_behind_odd_segments_is_found(first: bytes) -> None:
    """Bytes that look like the start of the pixels inside a segment, and padding between segments."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(1, 40, 30), exif=exif)
    data = data[:2] + first + data[2:]
    assert np.array_equal(decode_pixels(data).pixels, reference(data))
    assert decode_pixels(data).pixels.shape == (40, 30, 3)


def test_broken_metadata_is_left_to_the_reference() -> None:
    data = encoded(picture(2), exif=b"Exif\0\0" + b"\xff" * 30)
    assert np.array_equal(decode_pixels(data).pixels, reference(data))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_smaller_scales(scale: int) -> None:
    data = encoded(picture(3, 163, 121), quality=95)
    asked = []
    decoded = decode_pixels(data, lambda width, height: asked.append((width, height)) or scale)
    assert asked == [(163, 121)]
    assert (decoded.width, decoded.height, decoded.scale) == (163, 121, scale)
    assert decoded.pixels.shape == (-(-121 // scale), -(-163 // scale), 3)
    # Means of scale x scale blocks are what a smaller scale shows of a smooth picture.
    whole = reference(data)[: 121 // scale * scale, : 163 // scale * scale].astype(float)
    blocks = whole.reshape(121 // scale, scale, 163 // scale, scale, 3).mean((1, 3))
    assert np.abs(decoded.pixels[: 121 // scale, : 163 // scale] - blocks).mean() < 2.0


BROKEN = {
    "truncated": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-2],
    "header only": lambda data: data[:200],
    "three bytes": lambda data: data[:3],
    "damaged": lambda data: data[:700] + bytes(60) + data[760:],
    "restart markers": lambda data: data[:700] + b"\xff\xd3\xff\xd5" + data[704:],
    "empty": lambda data: b"",
    "trailing bytes": lambda data: data + b"rubbish" * 9,
}


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("scale", [1, 2])
def test_broken_files_end_as_with_the_reference(damage: str, scale: int) -> None:
    data = BROKEN[damage](encoded(picture(4, 120, 90), quality=90))
    try:
        expected: Any = reference(data)
    except PictureError as error:
        expected = str(error)
    try:
        decoded = decode_pixels(data, lambda width, height: scale)
        found: Any = decoded.pixels
    except PictureError as error:
        found = str(error)
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
    elif decoded.scale == 1:
        assert np.array_equal(found, expected)


def test_limits_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(5, 100, 80))
    with pytest.raises(PictureError, match="100 x 80 pixels, more than the limit of 7,999"):
        decode_pixels(data, max_pixels=7999)
    assert decode_pixels(data, max_pixels=8000).pixels.shape == (80, 100, 3)
    thin = encoded(picture(5, 600, 2))
    with pytest.raises(PictureError, match="one side more than 256 times the other"):
        decode_pixels(thin)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # a user's own limit
    with pytest.raises(PictureError, match="more pixels than the limit"):
        decode_pixels(data)


def test_headers_that_promise_what_is_not_there() -> None:
    """A header of 60,000 x 60,000 pixels must be refused before memory is asked for."""
    data = bytearray(encoded(picture(6)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(PictureError, match="more"):
        decode_pixels(bytes(data))


def test_a_picture_that_needs_more_memory_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", fails)
    data = encoded(picture(7))
    assert np.array_equal(decode_pixels(data).pixels, reference(data))
