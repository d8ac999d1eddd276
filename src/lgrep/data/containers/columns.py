"""Which column of a Parquet or Arrow file holds pictures, captions and labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lgrep.data.caption_text import clean_caption
from lgrep.errors import DataError

_PICTURES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
_CAPTIONS = ("caption", "captions", "text", "txt", "prompt", "description")
_LABELS = ("label", "labels", "cls", "class", "fine_label")


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Attributes:
        picture: binary, or a struct with a binary field `bytes`.
        captions: texts or lists of texts; empty: none.
        label: whole numbers or texts, or None.
        nested: whether `picture` is a struct.
    """

    picture: str
    captions: tuple[str, ...]
    label: str | None
    nested: bool

    @property
    def described(self) -> list[str]:
        """All columns but the pictures."""
        return [*self.captions, *([self.label] if self.label else [])]


@dataclass(frozen=True)
class Choice:
    """Columns asked for.

    Attributes:
        picture, caption, label: names, `auto` for the one that fits by type and name, or None for none.
    """

    picture: str
    caption: str | tuple[str, ...] | None
    label: str | None


def choose_columns(schema: pa.Schema, where: str, choice: Choice) -> Columns:
    """The columns asked for.

    Args:
        schema: of the file.
        where: its name, for messages.
        choice: see `Choice`.

    Raises:
        DataError: no such column, or none that fits; lists the columns.
    """
    picture, caption, label = choice.picture, choice.caption, choice.label
    found = {field.name: field.type for field in schema}
    listed = ", ".join(f"{name} ({_short(kind)})" for name, kind in list(found.items())[:12])
    for setting, names in (("image_column", picture), ("caption_column", caption), ("label_column", label)):
        for name in [names] if isinstance(names, str) else names or []:
            if name != "auto" and name not in found:
                raise DataError(f"data.{setting}={name}: {where} has no such column; it has {listed}")
    pictures = [name for name, kind in found.items() if _holds_bytes(kind)]
    if picture == "auto":
        picture = next((name for name in _PICTURES if name in pictures), pictures[0] if len(pictures) == 1 else "")
    if picture not in pictures:
        raise DataError(
            f"{where}: {f'column {picture} holds no encoded pictures' if picture else 'no column of encoded pictures'}; "
            f"it has {listed}. Type data.image_column=NAME (binary, or a struct with the field bytes)"
        )
    texts = [name for name, kind in found.items() if _is_text(kind) or _lists_text(kind)]
    if caption == "auto":
        captions = tuple(name for name in _CAPTIONS if name in texts)[:1]
    else:
        captions = (caption,) if isinstance(caption, str) else tuple(caption or ())
    if wrong := [name for name in captions if name not in texts]:
        raise DataError(f"data.caption_column={wrong[0]}: this column of {where} holds no text; it has {listed}")
    classes = [name for name, kind in found.items() if pa.types.is_integer(kind) or _is_text(kind)]
    if label == "auto":
        label = next((name for name in _LABELS if name in classes), None)
    if label is not None and label not in classes:
        raise DataError(f"data.label_column={label}: this column of {where} holds no classes; it has {listed}")
    return Columns(picture, captions, label, pa.types.is_struct(found[picture]))


def class_names(schema: pa.Schema, label: str | None) -> list[str]:
    """Names of the classes, where the file was written by the `datasets` library with them; else empty."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def describe_rows(table: pa.Table, columns: Columns) -> dict[str, list[Any]]:
    """`text` (null: none), `label` (null: none) and, where there may be several captions, `texts` of every row."""
    captions = [table[name].to_pylist() for name in columns.captions]
    listed = [[text for value in row for text in _texts(value)] for row in zip(*captions, strict=True)]
    listed = listed or [[] for _ in range(len(table))]
    rows: dict[str, list[Any]] = {"text": [texts[0] if texts else None for texts in listed]}
    if len(columns.captions) > 1 or any(_lists_text(table.schema.field(name).type) for name in columns.captions):
        rows["texts"] = listed
    labels: list[str | None] = [None] * len(table)
    if columns.label is not None:
        values = table[columns.label]
        if pa.types.is_integer(values.type):
            values = pc.if_else(pc.less(values, 0), None, values)
        labels = values.cast(pa.string()).to_pylist()
    rows["label"] = labels
    return rows


def _texts(value: str | list[str | None] | None) -> list[str]:
    found = [value] if isinstance(value, str) else value or []
    return [clean for text in found if text is not None and (clean := clean_caption(text))]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _lists_text(kind: pa.DataType) -> bool:
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type))


def _short(kind: pa.DataType) -> str:
    return "struct of " + "+".join(field.name for field in kind) if pa.types.is_struct(kind) else str(kind)[:40]
