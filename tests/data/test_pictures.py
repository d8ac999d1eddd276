"""Decoding of every kind of picture that folders on the web hold."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from lgrep.data.pictures import PictureError, decode, to_rgb


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def colours() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_lossless_formats_keep_every_pixel(colours: Image.Image, kind: str) -> None:
    decoded = decode(encoded(colours, kind))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(colours))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats(colours: Image.Image, kind: str) -> None:
    smooth = colours.crop((0, 0, 3, 2)).resize((60, 36), Image.Resampling.BICUBIC)
    difference = np.asarray(decode(encoded(smooth, kind, quality=95)), int) - np.asarray(smooth, int)
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(colours: Image.Image, orientation: int) -> None:
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(colours, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(decoded), turned(np.asarray(colours)))


def test_alpha_is_laid_on_white() -> None:
    pixels = np.array([[[200, 10, 30, 255], [200, 10, 30, 0], [0, 100, 200, 51]]], dtype=np.uint8)
    decoded = np.asarray(decode(encoded(Image.fromarray(pixels, "RGBA"))), int)
    np.testing.assert_allclose(decoded[0], [[200, 10, 30], [255, 255, 255], [204, 224, 244]], atol=1)


def test_grey_with_alpha_is_laid_on_white() -> None:
    decoded = np.asarray(decode(encoded(Image.fromarray(np.array([[[50, 255], [50, 0]]], np.uint8), "LA"))))
    np.testing.assert_array_equal(decoded[0], [[50] * 3, [255] * 3])


def test_palette_with_and_without_transparency() -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    np.testing.assert_array_equal(np.asarray(decode(encoded(picture)))[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    clear = np.asarray(decode(encoded(picture, transparency=1)))[0]
    np.testing.assert_array_equal(clear, [[10, 20, 30], [255, 255, 255], [70, 80, 90]])


def test_transparent_colour_key_of_an_rgb_png() -> None:
    picture = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    np.testing.assert_array_equal(
        np.asarray(decode(encoded(picture, transparency=(1, 2, 3))))[0], [[255] * 3, [4, 5, 6]]
    )


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    picture = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert(mode)
    np.testing.assert_array_equal(np.asarray(decode(encoded(picture)))[0], [[0] * 3, [255] * 3, [0] * 3])


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 257, 32768, 65535]], np.uint16)
    decoded = np.asarray(decode(encoded(Image.fromarray(values))))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 1, 1, 128, 255])
    assert (decoded[..., :1] == decoded).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([-5.0, np.nan, 65535.0], [0, 0, 255])],
)
def test_float_tiffs(values: list[float], expected: list[int]) -> None:
    decoded = decode(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    np.testing.assert_array_equal(np.asarray(decoded)[0, :, 0], expected)


def test_32_bit_integers_are_scaled_by_their_maximum() -> None:
    picture = Image.fromarray(np.array([[0, 500_000, 1_000_000]], np.int32))
    np.testing.assert_array_equal(np.asarray(to_rgb(picture))[0, :, 0], [0, 128, 255])


def test_cmyk_jpeg() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    np.testing.assert_allclose(np.asarray(decode(encoded(cyan, "JPEG", quality=100)))[8, 8], [0, 255, 255], atol=4)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_several(kind: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(red, kind, save_all=True, append_images=[blue], **options))
    np.testing.assert_array_equal(np.asarray(decoded)[4, 4], [255, 0, 0])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_files_are_refused(colours: Image.Image, kind: str) -> None:
    data = encoded(colours.resize((200, 200)), kind)
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(PictureError):
            decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 64, "no known picture format"),
        (b"<html>404</html>", "no known picture format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no known picture format"),
    ],
)
def test_what_is_no_picture_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(data)


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(PictureError, match="limit of 89478485"):
        decode(bomb)


def test_the_pixel_limit_can_be_set(colours: Image.Image) -> None:
    data = encoded(colours)
    assert decode(data, max_pixels=240).size == (20, 12)
    with pytest.raises(PictureError, match="20 x 12 pixels, more than the limit of 239"):
        decode(data, max_pixels=239)


def test_broken_exif_does_not_lose_the_picture(colours: Image.Image) -> None:
    data = encoded(colours, "JPEG", exif=b"Exif\0\0nothing like EXIF")
    assert decode(data).size == colours.size


def test_upright_pictures_are_not_copied_through_exif(colours: Image.Image) -> None:
    assert to_rgb(colours) is colours
    assert ImageOps.exif_transpose(colours).size == decode(encoded(colours)).size
