r"""Build the embedded picture set `emoji`: 1,564 captions, each drawn by four to six designers.

From npm packages (the drawings are rendered anew; needs resvg-py)::

    mkdir npm && cd npm
    npm pack @iconify-json/noto @iconify-json/noto-v1 @iconify-json/twemoji @iconify-json/fluent-emoji-flat \
        @iconify-json/fxemoji @lobehub/fluent-emoji-3d unicode-emoji-json emojilib emojibase-data
    cd ..
    python scripts/build_emoji.py --npm npm --embeddings src/lgrep/data/emoji/set --out emoji

or from drawings that were rendered before::

    python scripts/build_emoji.py --parquet emoji_64.parquet --captions emoji_captions.jsonl \
        --splits emoji_splits.json --embeddings emoji_caption_minilm.npy --out emoji

`--embeddings` is a .npy file [captions, D] in the captions' order, or a set built before, whose embeddings
are found by code. `docs/data_card_emoji.md` describes the result.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from emoji_npm import read_npm, unpack
from emoji_rows import PICTURE_SCHEMA, about, caption_rows, caption_schema, picture_rows
from emoji_splits import Caption, Drawing, Splits, make_splits
from PIL import Image
from rich.console import Console
from rich.progress import track

from lgrep.data.shards import write_set
from lgrep.data.table import open_set
from lgrep.errors import DataError, LgrepError


def read_parquet(path: Path, captions_file: Path | None) -> tuple[list[Caption], list[Drawing]]:
    """Captions and drawings from the columns code, name, names, keywords, group, subgroup, vendor, image."""
    try:
        rows = pq.read_table(path).to_pylist()
        lines = captions_file.read_text(encoding="utf-8").splitlines() if captions_file else []
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot read the drawings: {error}") from error
    characters = {entry["code"]: entry["char"] for entry in map(json.loads, lines)}
    first = {row["code"]: row for row in reversed(rows)}
    codes = list(dict.fromkeys(row["code"] for row in rows))
    if characters and list(characters) != codes:
        raise DataError(f"{captions_file} lists other captions than {path}, or in another order")
    number = {code: i for i, code in enumerate(codes)}
    captions = [
        Caption(
            code,
            characters.get(code) or "".join(chr(int(point, 16)) for point in code.split("-")),
            row["name"],
            row["names"],
            row["keywords"],
            row["group"],
            row["subgroup"],
        )
        for code, row in ((code, first[code]) for code in codes)
    ]
    return captions, [Drawing(number[row["code"]], row["vendor"], row["image"]) for row in rows]


def read_embeddings(path: Path, codes: list[str]) -> np.ndarray[Any, Any]:
    """Sentence embeddings [len(codes), D] from a .npy file in this order or from a set built before."""
    if path.is_dir():
        table = open_set(path)
        row_of = {code: i for i, code in enumerate(table.caption_column("id"))}
        missing = [code for code in codes if code not in row_of]
        if missing:
            raise DataError(f"{path} has no embedding of {len(missing)} captions, first {missing[0]}")
        return table.caption_column("embedding")[[row_of[code] for code in codes]]
    try:
        embeddings: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the embeddings {path}: {error}") from error
    if embeddings.ndim != 2 or len(embeddings) != len(codes):
        raise DataError(f"{path} must be [{len(codes)}, D], one row per caption; it is {list(embeddings.shape)}")
    return embeddings


def read_splits(path: Path, codes: list[str]) -> Splits:
    """Splits written by `--write-splits`, of exactly these captions."""
    try:
        return Splits.from_json(json.loads(path.read_text(encoding="utf-8")), codes)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{path} holds no splits ({error}); leave --splits out to compute them") from error


def keep_distinct(drawings: Iterable[Drawing]) -> tuple[list[tuple[Drawing, tuple[int, int]]], int]:
    """Keep the first of drawings with equal decoded pixels within a caption.

    Returns:
        Drawings in the captions' order with (width, height), and how many were left out.
    """
    seen: set[tuple[int, bytes]] = set()
    kept = []
    ordered = sorted(drawings, key=lambda drawing: drawing.caption)
    for drawing in track(ordered, "comparing"):
        picture = Image.open(io.BytesIO(drawing.image)).convert("RGB")
        key = (drawing.caption, hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest())
        if key not in seen:
            seen.add(key)
            kept.append((drawing, picture.size))
    return kept, len(ordered) - len(kept)


def build(args: argparse.Namespace, console: Console) -> None:
    """Read the input, split it, write the set and say what it holds."""
    versions: dict[str, str] = {}
    if args.npm:
        with tempfile.TemporaryDirectory() as scratch:
            folders, versions = unpack(args.npm, Path(scratch))
            captions, drawings = read_npm(folders, args.size, args.quality)
    else:
        captions, drawings = read_parquet(args.parquet, args.captions)
    codes = [caption.code for caption in captions]
    embeddings = read_embeddings(args.embeddings, codes)
    kept, dropped = keep_distinct(drawings)
    splits = (
        read_splits(args.splits, codes)
        if args.splits
        else make_splits(captions, [drawing for drawing, _ in kept], embeddings)
    )
    subgroups = sorted({caption.subgroup for caption in captions})
    label_of = {name: i for i, name in enumerate(splits.classes)}
    label = [label_of.get(caption.subgroup, -1) for caption in captions]
    designers = Counter(drawing.designer for drawing, _ in kept)
    write_set(
        args.out,
        "emoji",
        picture_rows(kept, captions, label),
        caption_rows(captions, splits, subgroups, label, embeddings),
        PICTURE_SCHEMA,
        caption_schema(embeddings.shape[1]),
        extra=about(designers, splits, subgroups, versions),
    )
    size = sum(path.stat().st_size for path in args.out.iterdir()) / 1e6
    console.print(
        f"{len(captions)} captions, {len(kept)} pictures ({dropped} identical ones left out): {args.out}",
        soft_wrap=True,
    )
    console.print(f"{dict(designers)}; {len(set(splits.cluster.values()))} clusters; {size:.2f} MB", soft_wrap=True)
    if args.write_splits:
        args.write_splits.write_text(json.dumps(splits.as_json(), indent=0, sort_keys=True))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--npm", type=Path, help="folder of `npm pack` tarballs")
    source.add_argument("--parquet", type=Path, help="drawings rendered before")
    parser.add_argument("--captions", type=Path, help="with --parquet: JSON lines with the exact characters")
    parser.add_argument("--embeddings", type=Path, required=True, help=".npy file or a set built before")
    parser.add_argument("--splits", type=Path, help="use these splits (default: compute them)")
    parser.add_argument("--write-splits", type=Path, help="also write the splits as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder of the set")
    parser.add_argument("--size", type=int, default=64, help="with --npm: pixels (default %(default)s)")
    parser.add_argument("--quality", type=int, default=85, help="with --npm: WebP quality (default %(default)s)")
    return parser.parse_args(arguments)


def main() -> int:
    """Run; the exit status."""
    console = Console()
    try:
        build(parse(), console)
    except LgrepError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
