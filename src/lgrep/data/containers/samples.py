"""Samples of an archive: the members that share a name up to its extension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from lgrep.data.caption_text import NoCaption, clean_caption, decode_text, json_field
from lgrep.data.notices import reason_of, shown

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif", "jp2")
_MAX_TEXT = 2**20  # bytes of a caption file


@dataclass(frozen=True)
class Rules:
    """Which member of a sample is what.

    Attributes:
        pictures: extensions of pictures; the first that a sample has is taken.
        captions: extensions of captions, the same way; empty: captions are not read.
        caption_field: of a `json` caption.
        label: extension of the class, `json`, or None.
        label_field: of a `json` label.
        first_dot: whether the extension begins at the first dot of the file's name, and a sample has one picture
            (WebDataset); otherwise it begins at the last, and every picture counts.
    """

    pictures: tuple[str, ...] = PICTURES
    captions: tuple[str, ...] = ("txt", "text", "caption", "json")
    caption_field: str = "caption"
    label: str | None = None
    label_field: str = "label"
    first_dot: bool = True

    def split(self, name: str) -> tuple[str, str]:
        """Key and extension (lower case) of a member; the extension is empty where the name has none.

        >>> Rules().split("a/b.c/0001.seg.PNG"), Rules(first_dot=False).split("x/cat.1.jpg"), Rules().split(".hidden")
        (('a/b.c/0001', 'seg.png'), ('x/cat.1', 'jpg'), ('.hidden', ''))
        """
        folder, slash, base = name.rpartition("/")
        stem, dot, extension = base.partition(".") if self.first_dot else base.rpartition(".")
        return (folder + slash + stem, extension.lower()) if stem and dot else (name, "")


class Member(NamedTuple):
    """A file within an archive.

    Attributes:
        name: path within the archive.
        place: values that the store needs, by column.
        read: its bytes.
    """

    name: str
    place: dict[str, int]
    read: Callable[[], bytes]


@dataclass
class Scan:
    """What one archive holds.

    Attributes:
        rows: `name`, `key` and the columns of `Member.place` of every picture, `text` (null: none) and `label` (null).
        left_out: (member, reason) of what cannot be used.
        members: number of files.
        extensions: all that occur.
        damage: where and how the archive ends too early; empty: whole.
        parts: pieces that the store counts in the rows' column `shard`, where they have one.
        lost: samples that are lost by damage, as far as can be told; None: unknown.
    """

    rows: pa.Table
    left_out: list[tuple[str, str]] = field(default_factory=list)
    members: int = 0
    extensions: set[str] = field(default_factory=set)
    damage: str = ""
    lost: float | None = 0.0
    parts: int = 1


def gather(members: Iterator[Member], rules: Rules, columns: pa.Schema) -> Scan:
    """Put members together to samples, in the order in which samples begin.

    Args:
        members: of one archive.
        rules: see `Rules`.
        columns: of `Member.place`.
    """
    samples: dict[str, dict[str, Any]] = {}
    scan = Scan(pa.table({}))
    for member in members:
        scan.members += 1
        key, extension = rules.split(member.name)
        scan.extensions.add(extension)
        wanted = extension in rules.pictures or extension in rules.captions or extension == rules.label
        if not wanted or member.name.rpartition("/")[2].startswith("."):
            continue
        sample = samples.setdefault(key, {})
        if extension in sample:
            scan.left_out.append((member.name, "occurs twice; the first is kept"))
        elif extension in rules.pictures:
            sample[extension] = member
        else:
            sample[extension] = _content(member)
    rows: list[dict[str, Any]] = []
    for key, sample in samples.items():
        pictures = [sample[extension] for extension in rules.pictures if extension in sample]
        if not pictures:
            scan.left_out.append((key, f"no picture, only {', '.join(sorted(sample))}"))
            continue
        text, why = _caption(sample, rules)
        label = _label(sample, rules)
        for picture in pictures[:1] if rules.first_dot else pictures:
            rows.append({"name": shown(picture.name), "text": text, "why": why, "label": label, **picture.place})
    kinds = [("name", pa.string()), ("text", pa.string()), ("why", pa.string()), ("label", pa.string()), *columns]
    schema = pa.schema([pa.field(entry[0], entry[1]) if isinstance(entry, tuple) else entry for entry in kinds])
    scan.rows = pa.Table.from_pylist(rows, schema=schema)
    return scan


def _content(member: Member) -> bytes | str:
    """The bytes, or why they cannot be had."""
    try:
        return member.read()
    except (OSError, ValueError) as error:
        return reason_of(error)


def _caption(sample: dict[str, Any], rules: Rules) -> tuple[str | None, str]:
    """Text, or None and why there is none."""
    why = "no caption" + f" (no {', '.join(rules.captions)})" * bool(rules.captions)
    for extension in rules.captions:
        data = sample.get(extension)
        if data is None:
            continue
        try:
            if isinstance(data, str):
                raise NoCaption(data)
            if len(data) > _MAX_TEXT:
                raise NoCaption("is too long for a text")
            text = json_field(data, rules.caption_field) if extension == "json" else decode_text(data)
            if clean := clean_caption(text):
                return clean, ""
            raise NoCaption("is empty")
        except NoCaption as error:
            why = f"its .{extension} {error}"
    return None, why


def _label(sample: dict[str, Any], rules: Rules) -> str | None:
    data = sample.get(rules.label or "")
    if not isinstance(data, bytes):
        return None
    try:
        text = json_field(data, rules.label_field, numbers=True) if rules.label == "json" else decode_text(data)
    except NoCaption:
        return None
    return text.strip() or None
