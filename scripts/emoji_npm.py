"""Captions and drawings of the `emoji` set from npm packages (see `build_emoji.py` for how to get them)."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from emoji_splits import Caption, Drawing
from PIL import Image
from rich.console import Console
from rich.progress import track

from lgrep.errors import DataError

PACKAGES = (
    "@iconify-json/noto",
    "@iconify-json/noto-v1",
    "@iconify-json/twemoji",
    "@iconify-json/fluent-emoji-flat",
    "@iconify-json/fxemoji",
    "@lobehub/fluent-emoji-3d",
    "unicode-emoji-json",
    "emojilib",
    "emojibase-data",
)
MIN_DESIGNERS = 4
LEFT_OUT_TOPICS = ("Flags", "Component")
MIN_COVERAGE = 0.02  # a drawing with less of its canvas covered is blank

Render = Callable[[], Image.Image]


def normalise_code(code: str) -> str:
    """Lower-case hex code points of at least four digits, without the presentation selector."""
    return "-".join(point.zfill(4) for point in code.lower().split("-") if point != "fe0f")


def letters(text: str) -> str:
    """Only the ASCII letters and digits of a text, so that spellings compare equal."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def unpack(tarballs: Path, target: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Unpack the tarballs of `npm pack`; the folder and the version of each package.

    Raises:
        DataError: a tarball is missing.
    """
    folders, versions = {}, {}
    for name in track(PACKAGES, "unpacking"):
        stem = name.removeprefix("@").replace("/", "-")
        found = sorted(path for path in tarballs.glob(f"{stem}-*.tgz") if path.name[len(stem) + 1].isdigit())
        if not found:
            raise DataError(f"{tarballs} has no {stem}-VERSION.tgz; get it with: npm pack {name}")
        with tarfile.open(found[-1]) as archive:
            archive.extractall(target / stem, filter="data")
        folders[name] = target / stem / "package"
        versions[name] = json.loads((folders[name] / "package.json").read_text())["version"]
    return folders, versions


def read_npm(folders: dict[str, Path], size: int, quality: int) -> tuple[list[Caption], list[Drawing]]:
    """Captions drawn by at least MIN_DESIGNERS designers, and their drawings on white as WebP of `size` px."""
    captions = read_captions(folders)
    sources = find_drawings(folders, captions, 2 * size)
    drawn = [
        caption
        for caption in captions.values()
        if caption.topic not in LEFT_OUT_TOPICS
        and sum(caption.code in own for own in sources.values()) >= MIN_DESIGNERS
    ]
    drawings: list[Drawing] = []
    refused: list[str] = []
    for number, caption in enumerate(track(drawn, "drawing")):
        seen: set[bytes] = set()
        for designer, own in sources.items():
            if caption.code not in own:
                continue
            picture = _draw(own[caption.code], size, f"{designer} {caption.code}", refused)
            digest = hashlib.sha256(picture.tobytes()).digest() if picture else None
            if picture is None or digest is None or digest in seen:
                continue
            seen.add(digest)
            drawings.append(Drawing(number, designer, _encode(picture, quality)))
    if refused:
        Console().print(f"{len(refused)} drawings left out: {'; '.join(refused[:10])}")
    return drawn, drawings


def read_captions(folders: dict[str, Path]) -> dict[str, Caption]:
    """All emoji by code, in Unicode's order."""
    base = folders["emojibase-data"]
    by_char = _json(folders["unicode-emoji-json"] / "data-by-emoji.json")
    words = _json(folders["emojilib"] / "dist/emoji-en-US.json")
    details = {normalise_code(entry["hexcode"]): entry for entry in _json(base / "en/data.json")}
    subgroups = _json(base / "meta/groups.json")["subgroups"]
    shortcodes = [
        {normalise_code(code): value for code, value in _json(base / f"en/shortcodes/{site}.json").items()}
        for site in ("github", "iamcal")
    ]
    captions: dict[str, Caption] = {}
    for char, entry in by_char.items():
        code = normalise_code("-".join(f"{ord(point):x}" for point in char))
        detail, own_words = details.get(code, {}), words.get(char) or []
        names = [entry["name"]]
        for site in shortcodes:
            value = site.get(code, [])
            names += [value] if isinstance(value, str) else value
        if "-" not in code:
            names.append(unicodedata.name(chr(int(code, 16)), "").lower())
        names = _unique((re.sub(r"[\s_-]+", " ", name).strip() for name in [*names, *own_words[:1]]), [])
        tags = (word.replace("_", " ").strip().lower() for word in [*(detail.get("tags") or []), *own_words[1:]])
        keywords = _unique((tag for tag in tags if tag.isascii()), names)
        subgroup = subgroups.get(str(detail.get("subgroup")), "")
        captions[code] = Caption(code, char, entry["name"], names, keywords, entry["group"], subgroup)
    return captions


def _unique(texts: Iterable[str], known: list[str]) -> list[str]:
    seen = {"", *map(letters, known)}
    kept = []
    for text in texts:
        if letters(text) not in seen:
            seen.add(letters(text))
            kept.append(text)
    return kept


class IconSet:
    """The SVG drawings of one @iconify-json package, by icon name."""

    def __init__(self, folder: Path) -> None:
        self.data: dict[str, Any] = _json(folder / "icons.json")
        chars = folder / "chars.json"
        self.chars = {normalise_code(code): name for code, name in _json(chars).items()} if chars.is_file() else {}

    def names(self) -> list[str]:
        """Names of all drawings, aliases last."""
        return [*self.data["icons"], *self.data.get("aliases", {})]

    def svg(self, name: str) -> str | None:
        """The drawing as an SVG document; None for unknown names and for turned or flipped aliases."""
        aliases = self.data.get("aliases", {})
        while name not in self.data["icons"] and name in aliases:
            if set(aliases[name]) != {"parent"}:
                return None
            name = aliases[name]["parent"]
        icon = self.data["icons"].get(name)
        if icon is None:
            return None
        width, height = (icon.get(side, self.data.get(side, 16)) for side in ("width", "height"))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {spaces} viewBox="{box}">{icon["body"]}</svg>'


def find_drawings(folders: dict[str, Path], captions: dict[str, Caption], canvas: int) -> dict[str, dict[str, Render]]:
    """For each designer, what renders the drawing of each code; vector drawings `canvas` px wide."""
    names = ("noto", "twemoji", "fluent-emoji-flat", "noto-v1", "fxemoji")
    icons = {name: IconSet(folders[f"@iconify-json/{name}"]) for name in names}

    def vector(name: str, wanted: dict[str, str]) -> dict[str, Render]:
        found = {code: svg for code, icon in wanted.items() if (svg := icons[name].svg(icon))}
        return {code: lambda svg=svg: render_svg(svg, canvas) for code, svg in found.items()}  # type: ignore[misc]

    def by_char(name: str) -> dict[str, str]:
        return {code: icon for code, icon in icons[name].chars.items() if code in captions}

    flat = vector("fluent-emoji-flat", by_char("fluent-emoji-flat"))
    files = (folders["@lobehub/fluent-emoji-3d"] / "assets").iterdir()
    # only drawings that the flat set of the same MIT repository has too: the others' origin is unclear
    solid = {code: path for path in files if (code := normalise_code(path.stem)) in flat}
    return {
        "noto": vector("noto", by_char("noto")),
        "twemoji": vector("twemoji", by_char("twemoji")),
        "fluent3d": {code: lambda path=path: Image.open(path) for code, path in solid.items()},  # type: ignore[misc]
        "fluentflat": flat,
        "notov1": vector("noto-v1", _blob_names(icons, captions)),
        "fxemoji": vector("fxemoji", _loose_names(icons["fxemoji"], captions)),
    }


def _blob_names(icons: dict[str, IconSet], captions: dict[str, Caption]) -> dict[str, str]:
    """Icon per code for a set without a code table: by the names that other sets give to a code."""
    code_of: dict[str, str] = {}
    for name in ("fluent-emoji-flat", "noto", "twemoji"):
        for code, icon in icons[name].chars.items():
            if code in captions:
                code_of.setdefault(icon, code)
    for code, caption in captions.items():
        plain = re.sub("[\u2019']", "", caption.name.lower())
        code_of.setdefault(re.sub(r"[^a-z0-9]+", "-", plain).strip("-"), code)
    return _first_icon(icons["noto-v1"], code_of, lambda icon: icon)


def _loose_names(icons: IconSet, captions: dict[str, Caption]) -> dict[str, str]:
    """Icon per code for a set without a code table: by any name of the caption, letters only."""
    code_of: dict[str, str] = {}
    for code, caption in captions.items():
        for name in caption.names:
            code_of.setdefault(letters(name), code)
    return _first_icon(icons, code_of, letters)


def _first_icon(icons: IconSet, code_of: dict[str, str], key: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for icon in icons.names():
        if key(icon) in code_of and icons.svg(icon):
            found.setdefault(code_of[key(icon)], icon)
    return found


def render_svg(svg: str, width: int) -> Image.Image:
    """The drawing, centred on a transparent square."""
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("drawing SVG needs resvg-py; get it with: pip install resvg-py") from error
    data = resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _draw(render: Render, size: int, identity: str, refused: list[str]) -> Image.Image | None:
    """The drawing on white, `size` px; None with a line in `refused` when it is broken or blank."""
    try:
        picture = render().convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    except (OSError, ValueError) as error:
        refused.append(f"{identity}: {str(error)[:80]}")
        return None
    if (np.asarray(picture)[..., 3] > 32).mean() < MIN_COVERAGE:
        refused.append(f"{identity}: blank")
        return None
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def _encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
