"""Sheets of small pictures with text: contact sheets and neighbour sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, GREY, PALE, PAPER = "#1f2328", "#6b7280", "#d8dce2", "#ffffff"
GREEN, RED = "#2e9e5b", "#d64545"
_MARGIN, _GAP, _TITLE_WIDTH = 20, 10, 230


@dataclass
class Cell:
    """One picture: uint8 [3, H, W], a short text below it, a colour around it."""

    picture: Tensor
    caption: str = ""
    frame: str = PALE


@dataclass
class Row:
    """A line of the sheet: title and small print at the left, pictures at the right."""

    title: str
    cells: list[Cell] = field(default_factory=list)
    small: str = ""


def draw_sheet(
    heading: str, subheading: str, columns: Sequence[str], rows: Sequence[Row], size: int = 96
) -> Image.Image:
    """A page with one line per row and one column per picture.

    Args:
        heading, subheading: above the sheet.
        columns: names of the picture columns.
        rows: at most `len(columns)` cells each.
        size: px, edge of a picture; pictures of other sizes are scaled, their shape is kept.

    Returns:
        RGB picture.
    """
    has_captions = any(cell.caption for row in rows for cell in row.cells)
    pitch = size + _GAP + (16 if has_captions else 4)
    page_width = max(2 * _MARGIN + _TITLE_WIDTH + len(columns) * (size + _GAP), 640)
    top = _MARGIN + 62
    page = Image.new("RGB", (page_width, top + len(rows) * pitch + 22 + _MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    inner = page_width - 2 * _MARGIN
    draw.text((_MARGIN, _MARGIN), fit(heading, _font(18, bold=True), inner), INK, _font(18, bold=True))
    draw.text((_MARGIN, _MARGIN + 26), fit(subheading, _font(12), inner), GREY, _font(12))
    left = _MARGIN + _TITLE_WIDTH
    for number, name in enumerate(columns):
        middle = left + number * (size + _GAP) + size // 2
        draw.text((middle, top + 6), fit(name, _font(11), size), GREY, _font(11), anchor="mm")
    for number, row in enumerate(rows):
        _draw_row(page, draw, row, left, top + 22 + number * pitch, size)
    return page


def _draw_row(page: Image.Image, draw: ImageDraw.ImageDraw, row: Row, left: int, y: int, size: int) -> None:
    width = left - _MARGIN - 16
    text_y = y
    for line in wrap(row.title, _font(14, bold=True), width, 3):
        draw.text((_MARGIN, text_y), line, INK, _font(14, bold=True))
        text_y += 19
    for line in wrap(row.small, _font(10), width, max(0, (y + size - text_y) // 13)):
        draw.text((_MARGIN, text_y + 2), line, GREY, _font(10))
        text_y += 13
    for number, cell in enumerate(row.cells):
        x = left + number * (size + _GAP)
        picture = _scaled(cell.picture, size)
        offset = ((size - picture.width) // 2, (size - picture.height) // 2)
        page.paste(picture, (x + offset[0], y + offset[1]))
        thick = 1 if cell.frame == PALE else 3
        draw.rectangle((x - thick, y - thick, x + size - 1 + thick, y + size - 1 + thick), None, cell.frame, thick)
        if cell.caption:
            text = fit(cell.caption, _font(10), size + _GAP - 4, middle=True)
            draw.text((x + size // 2, y + size + 10), text, GREY, _font(10), anchor="mm")


def printable(text: str) -> str:
    """Text that any font can be asked to draw: one line, no control characters, no lone surrogates."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def fit(text: str, font: ImageFont.FreeTypeFont, width: float, middle: bool = False) -> str:
    """`text` on one line of at most `width` px, shortened with an ellipsis at the end or in the middle.

    Names of pictures differ at both ends (caption and designer), so those lose their middle.
    """
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    # a letter is wider than a pixel: no need to measure a whole page of text
    for kept in range(min(len(text), int(width)), 0, -1):
        tail = 2 * kept // 3 if middle else 0
        short = text[: kept - tail].rstrip() + "…" + text[len(text) - tail :]
        if font.getlength(short) <= width:
            return short
    return "…"


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, max_lines: int) -> list[str]:
    """`text` in at most `max_lines` lines of at most `width` px, the last one shortened if need be."""
    words = printable(text)[: int(width) * max(1, max_lines)].split(" ")
    lines: list[str] = []
    while words and words[0] and len(lines) < max_lines:
        if len(lines) == max_lines - 1:
            lines.append(fit(" ".join(words), font, width))
            break
        used = 1
        while used < len(words) and font.getlength(" ".join(words[: used + 1])) <= width:
            used += 1
        lines.append(fit(" ".join(words[:used]), font, width))
        words = words[used:]
    return lines


def as_uint8(pictures: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Undo an affine normalisation whose images of black and white are known.

    Args:
        pictures: float [B, 3, H, W].
        black, white: normalised values of 0 and 255, each broadcastable to `pictures`.

    Returns:
        uint8 [B, 3, H, W] on the CPU.
    """
    scaled = (pictures.float() - black) / (white - black) * 255
    return scaled.nan_to_num().round().clamp(0, 255).to(device="cpu", dtype=torch.uint8)


def save_png(page: Image.Image, path: Path) -> None:
    """Write `page`, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, format="PNG", optimize=True)


def _scaled(picture: Tensor, size: int) -> Image.Image:
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    ratio = size / max(image.size)
    target = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.resize(target, Image.Resampling.BICUBIC)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib  # ships DejaVu, which covers far more scripts than the font inside PIL

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
