"""What the `emoji` set stores: columns of pictures and captions, and the credits in `set.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from emoji_splits import FAMILIES, HELD_OUT_DESIGNER, Caption, Drawing, Splits

LICENCES = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "MIT": "https://opensource.org/license/mit",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
}
# designer: npm package, licence of the drawings, whom to credit, where the drawings come from
DESIGNERS = {
    "noto": (
        "@iconify-json/noto",
        "Apache-2.0",
        "Noto Emoji, Google Inc",
        "https://github.com/googlefonts/noto-emoji",
    ),
    "twemoji": (
        "@iconify-json/twemoji",
        "CC-BY-4.0",
        "Twemoji, Twitter, Inc and other contributors",
        "https://github.com/jdecked/twemoji",
    ),
    "fluent3d": (
        "@lobehub/fluent-emoji-3d",
        "MIT",
        "Fluent Emoji (3D), Microsoft Corporation; packaged by LobeHub",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    "fluentflat": (
        "@iconify-json/fluent-emoji-flat",
        "MIT",
        "Fluent Emoji (flat), Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    "notov1": (
        "@iconify-json/noto-v1",
        "Apache-2.0",
        "Noto Emoji v1 (blobs), Google Inc",
        "https://github.com/googlefonts/noto-emoji",
    ),
    "fxemoji": (
        "@iconify-json/fxemoji",
        "CC-BY-4.0",
        "FxEmojis, Mozilla Foundation (drawings CC-BY-4.0, code Apache-2.0)",
        "https://github.com/mozilla/fxemoji",
    ),
}
TEXT_SOURCES = {
    "unicode-emoji-json": "MIT, Mu-An Chiou",
    "emojilib": "MIT, Mu-An Chiou",
    "emojibase-data": "MIT, Miles Johnson",
}
WORD = pa.dictionary(pa.int8(), pa.string())
PICTURE_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "group": pa.int32(),
        "label": pa.int32(),
        "family": pa.int32(),
        "designer": WORD,
        "licence": WORD,
        "width": pa.int16(),
        "height": pa.int16(),
    }
)


def caption_schema(width: int) -> pa.Schema:
    """Columns of the captions, with embeddings of this width."""
    words = pa.list_(pa.string())
    return pa.schema(
        {
            "id": pa.string(),
            "text": pa.string(),
            "char": pa.string(),
            "names": words,
            "keywords": words,
            "topic": WORD,
            "subgroup": WORD,
            "subgroup_id": pa.int32(),
            "label": pa.int32(),
            "cluster": pa.string(),
            "fold": pa.int8(),
            "embedding": pa.list_(pa.float16(), width),
        }
    )


def picture_rows(
    kept: list[tuple[Drawing, tuple[int, int]]], captions: list[Caption], label: list[int]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Columns and bytes of each picture; equal `family` = the same design of the same caption."""
    families: dict[tuple[int, str], int] = {}
    for drawing, (width, height) in kept:
        design = (drawing.caption, FAMILIES.get(drawing.designer, drawing.designer))
        columns = {
            "id": f"{captions[drawing.caption].code}/{drawing.designer}.webp",
            "group": drawing.caption,
            "label": label[drawing.caption],
            "family": families.setdefault(design, len(families)),
            "designer": drawing.designer,
            "licence": DESIGNERS[drawing.designer][1],
            "width": width,
            "height": height,
        }
        yield columns, drawing.image


def caption_rows(
    captions: list[Caption], splits: Splits, subgroups: list[str], label: list[int], embeddings: np.ndarray[Any, Any]
) -> list[dict[str, Any]]:
    """Columns of each caption."""
    return [
        {
            "id": caption.code,
            "text": caption.name,
            "char": caption.char,
            "names": caption.names,
            "keywords": caption.keywords,
            "topic": caption.topic,
            "subgroup": caption.subgroup,
            "subgroup_id": subgroups.index(caption.subgroup),
            "label": label[i],
            "cluster": splits.cluster[caption.code],
            "fold": splits.fold[caption.code],
            "embedding": embeddings[i].astype(np.float16),
        }
        for i, caption in enumerate(captions)
    ]


def about(designers: Counter[str], splits: Splits, subgroups: list[str], versions: dict[str, str]) -> dict[str, Any]:
    """What `set.json` says besides the counts: names of classes, protocol constants, licences and credits."""
    credit_of = {
        name: {"pictures": designers[name], "package": package, "licence": licence, "credit": credit, "source": source}
        for name, (package, licence, credit, source) in DESIGNERS.items()
        if designers[name]
    }
    return {
        "held_out_designer": HELD_OUT_DESIGNER,
        "families": FAMILIES,
        "classes": splits.classes,
        "subgroups": subgroups,
        "designers": credit_of,
        "licences": LICENCES,
        "text_sources": TEXT_SOURCES,
        "embedding": "all-MiniLM-L6-v2 of the column text, unit length",
        **({"packages": versions} if versions else {}),
    }
