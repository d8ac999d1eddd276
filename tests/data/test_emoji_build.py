"""`scripts/build_emoji.py` on a made-up world of a few emoji: npm tarballs or a parquet file become a set."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lgrep.data.table import open_set
from lgrep.errors import DataError

SCRIPTS = Path(__file__).parents[2] / "scripts"
MODULES = ("build_emoji", "emoji_npm", "emoji_rows", "emoji_splits")
CAT, DOG, FLAG, BOTTLE = "\U0001f408", "\U0001f415", "\U0001f3c1", "\U0001f37c"
ICONS = {
    "noto": {"cat": "red", "dog": "blue", "chequered-flag": "black", "baby-bottle": "lime"},
    "twemoji": {"cat": "green", "dog": "aqua", "chequered-flag": "gray", "baby-bottle": "navy"},
    "fluent-emoji-flat": {"cat": "orange", "dog": "pink", "chequered-flag": "teal"},
    "noto-v1": {"cat": "red", "dog": "brown", "chequered-flag": "olive"},
    "fxemoji": {"domesticcat": "purple"},
}
CHARS = {"1F408": "cat", "1f415-fe0f": "dog", "1f3c1": "chequered-flag", "1f37c": "baby-bottle"}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import build_emoji
    import emoji_npm

    monkeypatch.setattr(emoji_npm, "render_svg", paint)
    yield build_emoji
    for name in MODULES:
        sys.modules.pop(name, None)


def paint(svg: str, width: int) -> Image.Image:
    """Stands for the SVG renderer: a square of the fill colour."""
    found = re.search('fill="(.*?)"', svg)
    assert found
    return Image.new("RGBA", (width, width), found[1])


def run(build: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["build_emoji.py", *map(str, arguments)])
    status: int = build.main()
    return status


def pack(folder: Path, name: str, files: dict[str, Any]) -> None:
    """A tarball as `npm pack` writes it."""
    stem = name.removeprefix("@").replace("/", "-")
    with tarfile.open(folder / f"{stem}-1.0.0.tgz", "w:gz") as archive:
        for path, content in {"package.json": {"version": "1.0.0"}, **files}.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def solid(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "WEBP")
    return buffer.getvalue()


@pytest.fixture
def tarballs(tmp_path: Path) -> Path:
    folder = tmp_path / "npm"
    folder.mkdir()
    for name, colours in ICONS.items():
        icons = {icon: {"body": f'<path fill="{colour}"/>'} for icon, colour in colours.items()}
        aliases = {}
        if name == "twemoji":
            icons["plain-cat"] = icons.pop("cat")
            aliases = {"cat": {"parent": "plain-cat"}, "turned-cat": {"parent": "plain-cat", "rotate": 1}}
        chars = {"chars.json": CHARS} if name in ("noto", "twemoji", "fluent-emoji-flat") else {}
        pack(folder, f"@iconify-json/{name}", {"icons.json": {"icons": icons, "aliases": aliases}, **chars})
    pictures = {f"assets/{code}.webp": solid("gold") for code in ("1f408", "1f415", "1f3c1", "1f37c")}
    pack(folder, "@lobehub/fluent-emoji-3d", pictures)
    topics = {CAT: ("cat", "Animals"), DOG: ("dog", "Animals"), FLAG: ("chequered flag", "Flags")}
    topics[BOTTLE] = ("baby bottle", "Food")
    entries = {char: {"name": name, "group": topic} for char, (name, topic) in topics.items()}
    pack(folder, "unicode-emoji-json", {"data-by-emoji.json": entries})
    words = {CAT: ["domestic_cat", "meow", "Pet", "cat"], DOG: ["dog", "pet"]}
    pack(folder, "emojilib", {"dist/emoji-en-US.json": words})
    details = [{"hexcode": "1F408", "subgroup": 7, "tags": ["pet", "kätzchen"]}, {"hexcode": "1F415", "subgroup": 7}]
    base = {"en/data.json": details, "meta/groups.json": {"subgroups": {"7": "animal-mammal"}}}
    codes = {"en/shortcodes/github.json": {"1F408": ["cat2"]}, "en/shortcodes/iamcal.json": {"1F415": "dog2"}}
    pack(folder, "emojibase-data", {**base, **codes})
    return folder


def test_npm_packages_become_a_set(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tarballs: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "e.npy", np.eye(2, 4, dtype=np.float32))
    out = tmp_path / "out"
    assert run(build, monkeypatch, "--npm", tarballs, "--embeddings", tmp_path / "e.npy", "--out", out) == 0
    table = open_set(out)
    # the flag is of a topic left out, the bottle has too few designers, the cat of Noto v1 is Noto's
    assert table.caption_column("id").tolist() == ["1f408", "1f415"]
    cat = ["noto", "twemoji", "fluent3d", "fluentflat", "fxemoji"]
    assert table.column("designer").tolist() == [*cat, "noto", "twemoji", "fluent3d", "fluentflat", "notov1"]
    assert table.column("family").tolist() == [0, 1, 2, 2, 3, 4, 5, 6, 6, 7]
    assert table.caption_column("names")[0].tolist() == ["cat", "cat2", "domestic cat"]
    assert table.caption_column("keywords")[0].tolist() == ["pet", "meow"]
    assert set(table.caption_column("subgroup")) == {"animal-mammal"}
    red, green, gold = (np.asarray(Image.open(io.BytesIO(table.read(row)))).mean((0, 1)) for row in range(3))
    assert np.abs(red - (255, 0, 0)).max() < 8
    assert np.abs(green - (0, 128, 0)).max() < 8
    assert np.abs(gold - (255, 215, 0)).max() < 8
    assert json.loads((out / "set.json").read_text())["packages"]["emojilib"] == "1.0.0"


def test_a_missing_tarball_is_named_with_its_command(build: ModuleType, tarballs: Path, tmp_path: Path) -> None:
    import emoji_npm

    (tarballs / "iconify-json-noto-1.0.0.tgz").unlink()  # noto-v1 is there and must not stand in for it
    with pytest.raises(DataError, match=r"npm pack @iconify-json/noto$"):
        emoji_npm.unpack(tarballs, tmp_path / "unpacked")


def test_a_turned_alias_is_no_drawing(build: ModuleType, tarballs: Path, tmp_path: Path) -> None:
    import emoji_npm

    folders, _ = emoji_npm.unpack(tarballs, tmp_path / "unpacked")
    icons = emoji_npm.IconSet(folders["@iconify-json/twemoji"])
    assert icons.svg("cat") == icons.svg("plain-cat") != icons.svg("dog")
    assert icons.svg("turned-cat") is None
    assert icons.svg("unicorn") is None


def parquet(path: Path) -> Path:
    names = ["cook", "man cook", "tiger", "violin"]
    rows = [
        {
            "code": f"1f60{i}",
            "name": name,
            "names": [name],
            "keywords": [],
            "group": "Things",
            "subgroup": "animal" if name == "tiger" else "other",
            "vendor": vendor,
            "image": solid(f"rgb({60 * i}, {80 * v}, 0)"),
        }
        for i, name in enumerate(names)
        for v, vendor in enumerate(["noto", "twemoji"])
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_parquet_rows_become_a_set_and_its_splits_can_be_given_back(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = parquet(tmp_path / "p.parquet")
    np.save(tmp_path / "e.npy", np.eye(4, dtype=np.float16))
    first, second, splits = tmp_path / "first", tmp_path / "second", tmp_path / "s.json"
    given = ("--parquet", source, "--embeddings")
    assert run(build, monkeypatch, *given, tmp_path / "e.npy", "--out", first, "--write-splits", splits) == 0
    assert run(build, monkeypatch, *given, first, "--out", second, "--splits", splits) == 0
    for name in ("set.json", "pictures.arrow", "captions.arrow", "shard-00000.zip"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    table = open_set(first)
    assert table.caption_column("cluster").tolist() == ["1f600", "1f600", "1f602", "1f603"]
    fold = table.caption_column("fold")
    assert fold[0] == fold[1] != fold[3]
    assert table.caption_column("char").tolist() == [chr(0x1F600 + i) for i in range(4)]
    assert [table.read(row) for row in range(8)] == [row["image"] for row in pq.read_table(source).to_pylist()]


def test_embeddings_of_another_length_are_refused(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "e.npy", np.eye(3))
    source = parquet(tmp_path / "p.parquet")
    out = tmp_path / "out"
    assert run(build, monkeypatch, "--parquet", source, "--embeddings", tmp_path / "e.npy", "--out", out) == 3
    assert "one row per caption" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("content", ["{}", "not json", '{"fold": {}, "cluster": {}}'])
def test_splits_of_something_else_are_refused(build: ModuleType, tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match="leave --splits out"):
        build.read_splits(tmp_path / "s.json", ["1f600"])
