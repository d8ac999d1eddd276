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
    plain = decode(encoded(colours, "JPEG"))
    np.testing.assert_array_equal(np.asarray(decode(encoded(colours, "JPEG", exif=exif))), turned(np.asarray(plain)))


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
    """Stored inverted, with and without the mark of Adobe, as every writer of CMYK JPEGs does."""
    inks = Image.new("CMYK", (16, 16), (255, 51, 0, 102))  # cyan, a fifth of magenta, no yellow, two fifths of black
    data = encoded(inks, "JPEG", quality=100)
    start = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[start + 2 : start + 4])[0]
    assert data[start + 4 : start + 9] == b"Adobe"
    for file in (data, data[:start] + data[start + 2 + length :]):
        pixel = np.asarray(decode(file))[8, 8]
        np.testing.assert_allclose(pixel, [0, 0.8 * 0.6 * 255, 0.6 * 255], atol=4)


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
        (b"just text", r"no known picture format \(starts with b'just tex'\)"),
        (b"\n <!DOCTYPE html><html>404</html>", r"a web page \(HTML\), no picture"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG or XML text"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "a PostScript document"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "type git lfs pull"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "a HEIC picture"),
        (b"\xff\xd8\xff\xe0\0", "a JPEG file with a broken header"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG file with a broken header"),
    ],
)
def test_what_is_no_picture_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(data)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file from its rows (each after a filter byte)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: int, data: bytes, black_is_zero: int = 1, sample_format: int = 1) -> bytes:
    """An uncompressed grey little-endian TIFF file of one strip."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, black_is_zero),
        (273, 134),
        (277, 1),
        (278, height),
    ]
    tags += [(279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def webp(width: int, height: int) -> bytes:
    bits = (width - 1) | ((height - 1) << 14)
    chunk = b"VP8L" + struct.pack("<I", 14) + b"\x2f" + struct.pack("<I", bits) + b"\0" * 9
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    "bomb",
    [
        png(30_000, 30_000, 8, 2, b"\0" * 16),
        png(2**31 - 1, 2**31 - 1, 8, 2, b"\0" * 16),
        tiff(30_000, 30_000, 8, b"\0" * 16),
        webp(16_383, 16_383),
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0),
    ],
    ids=["png", "png of 2^62 pixels", "tiff", "webp", "gif"],
)
def test_a_decompression_bomb_is_refused_from_its_header(bomb: bytes) -> None:
    with pytest.raises(PictureError, match="more pixels than the limit of 178,956,970|a GIF file"):
        decode(bomb)


def test_a_large_photo_is_no_bomb() -> None:
    side = 10_000
    decoded = decode(png(side, side, 1, 0, (b"\0" + b"\x80" + b"\0" * (side // 8 - 1)) * side))
    assert decoded.size == (side, side)
    assert (decoded.getpixel((0, 5)), decoded.getpixel((1, 5))) == ((255,) * 3, (0,) * 3)


def test_a_thread_of_pixels_is_refused() -> None:
    assert decode(encoded(Image.new("RGB", (256, 1)))).size == (256, 1)
    with pytest.raises(PictureError, match="1 x 257 pixels, one side more than 256 times the other"):
        decode(encoded(Image.new("RGB", (1, 257))))


def rows16(values: list[int]) -> bytes:
    return b"\0" + struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(3, 1, 16, 0, rows16([0, 32768, 65535])), [[0] * 3, [128] * 3, [255] * 3]),
        (png(2, 1, 16, 2, rows16([0, 257, 65535, 32768, 1, 65280])), [[0, 1, 255], [128, 0, 255]]),
        (png(2, 1, 16, 4, rows16([32768, 65535, 32768, 0])), [[128] * 3, [255] * 3]),
        (png(2, 1, 16, 6, rows16([0, 257, 65535, 65535, 1, 1, 1, 0])), [[0, 1, 255], [255] * 3]),
        (tiff(3, 1, 16, struct.pack("<3H", 0, 32768, 65535)), [[0] * 3, [128] * 3, [255] * 3]),
        (tiff(3, 1, 16, struct.pack("<3H", 0, 32768, 65535), black_is_zero=0), [[255] * 3, [127] * 3, [0] * 3]),
        (tiff(3, 1, 8, b"\0\x80\xff", black_is_zero=0), [[255] * 3, [127] * 3, [0] * 3]),
        (tiff(2, 1, 12, b"\xff\xf8\x00"), [[255] * 3, [128] * 3]),
        (tiff(2, 1, 16, struct.pack("<2h", -5, 32767), sample_format=2), [[0] * 3, [127] * 3]),
        (tiff(8, 1, 1, b"\xa0"), [[255] * 3, [0] * 3, [255] * 3] + [[0] * 3] * 5),
    ],
    ids=[
        "L PNG",
        "RGB PNG",
        "LA PNG",
        "RGBA PNG",
        "TIFF",
        "white is 0",
        "8 bit white is 0",
        "12 bit",
        "signed",
        "1 bit",
    ],
)
def test_deep_and_shallow_files_made_by_hand(data: bytes, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(np.asarray(decode(data))[0], expected)


def test_a_large_deep_picture_is_scaled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (23, 17)).astype(np.uint16)
    monkeypatch.setattr("lgrep.data.pictures._BLOCK", 40)
    np.testing.assert_array_equal(np.asarray(decode(encoded(Image.fromarray(values))))[..., 0], np.rint(values / 257))


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


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, a stretch wiped, or the end cut off."""
    kind, place = rng.integers(4), int(rng.integers(len(data)))
    changed = bytearray(data)
    if kind == 0:
        for position in rng.integers(0, len(data), rng.integers(1, 12)):
            changed[position] = rng.integers(256)
    elif kind == 1:
        del changed[place:]
    elif kind == 2:
        start = int(rng.integers(min(len(data), 300)))
        changed[start : start + 4] = rng.bytes(4)
    else:
        wiped = len(changed[place : place + 48])
        changed[place : place + wiped] = bytes([rng.choice([0, 255])]) * wiped
    return bytes(changed)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "TIFF group4", "TIFF lzw", "BMP", "ICO"])
def test_any_damage_gives_a_picture_or_a_picture_error(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
    form, _, compression = kind.partition(" ")
    options: dict[str, object] = {"compression": f"tiff_{compression}"} if compression == "lzw" else {}
    if compression == "group4":
        picture, options = picture.convert("1"), {"compression": "group4"}
    whole, broken = encoded(picture, form, **options), 0
    for _ in range(60):
        try:
            assert decode(damaged(whole, rng)).mode == "RGB"
        except PictureError:
            broken += 1
    assert broken > 5
    assert capfd.readouterr() == ("", "")
