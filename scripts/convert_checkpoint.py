"""Checkpoints in and out: `python scripts/convert_checkpoint.py MODEL --out FOLDER`.

MODEL is a run folder, a checkpoint, or a file that others published (StableRep, SynCLR, language-guided SSL, CLIP-rocket,
SLIP, t-ReX, SimCLR, SimSiam, SwAV, MoCo v3, MAE, DINO, timm, torchvision). FOLDER gets `model.safetensors`, `config.json`
and a model card, which timm, the Hugging Face hub and `evaluate.py model=FOLDER` understand.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lgrep.cli import program


@program
def main(arguments: list[str] | None = None) -> int:
    """Convert; exit code."""
    from lgrep.checkpoints.encoder import checkpoint_file, load_encoder, published_encoder
    from lgrep.checkpoints.exporting import export_encoder
    from lgrep.checkpoints.formats import FORMATS
    from lgrep.checkpoints.published import read_plain, read_published

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--to", choices=("timm", "torchvision"), default="timm", help="layout of FOLDER")
    parser.add_argument("--format", default="auto", choices=("auto", *FORMATS), help="kind of the published file")
    parser.add_argument("--backbone", help="timm/NAME, where names and shapes do not tell the network")
    parser.add_argument("--heads", type=int, help="attention heads of a ViT, where the file does not tell them")
    parser.add_argument("--image-size", type=int, help="side of the pictures in px")
    options = parser.parse_args(arguments)
    path = Path(options.model)
    about: dict[str, Any] = {}
    if path.is_file() and "lgrep" not in (content := read_plain(path)):
        found = read_published(path, options.format, options.backbone, content, options.heads)
        encoder, transform = published_encoder(found, path, options.image_size)
        print(f"{path.name} is a file of {found.kind} ({FORMATS[found.kind].about}): {found.backbone} {found.options}")
        if found.left_out:
            parts = sorted({".".join(name.split(".")[:2]) for name in found.left_out})
            print(f"left out: {len(found.left_out)} names of {', '.join(parts)}")
        about = {"name": f"{found.kind}: {path.name}"}
    else:
        encoder, transform = load_encoder(options.model, options.image_size)
        if path.is_dir() and not (path / "config.json").is_file():
            summary = checkpoint_file(path).parents[1] / "summary.json"
            about = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    written = export_encoder(encoder, transform, options.out, options.to, about)
    print(f"wrote {written}. Measure it: python evaluate.py model={options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
