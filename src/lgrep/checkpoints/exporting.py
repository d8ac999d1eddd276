"""Encoders written for other programs: a folder that timm, torchvision or a hub understand, and this project too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from lgrep.checkpoints.encoder import DESCRIPTION, WEIGHTS
from lgrep.checkpoints.heads import Projected
from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.errors import CheckpointError
from lgrep.files import write_text
from lgrep.records import weights_hash

Layout = Literal["timm", "torchvision"]
CARD = "README.md"


def export_encoder(
    encoder: nn.Module,
    transform: EvaluationTransform,
    folder: str | Path,
    layout: Layout = "timm",
    about: dict[str, Any] | None = None,
) -> Path:
    """Write an encoder.

    - `timm`: `model.safetensors`, `config.json` as on the Hugging Face hub (`timm.create_model("local-dir:FOLDER")` loads
      it) and a model card. The folder is what one uploads.
    - `torchvision`: `model.pth`, a state dict for `torchvision.models.NAME(); load_state_dict(..., strict=False)`, whose
      only missing names are those of the classifier.

    Args:
        encoder: from `load_encoder`.
        transform: its pictures' transform.
        folder: made if missing.
        layout: see above.
        about: what the card says of its training (summary of the run).

    Raises:
        CheckpointError: the layout has no such network, or the features are a projector's.
    """
    if isinstance(encoder, Projected):
        raise CheckpointError("other programs know backbones only. Name the model without :projector or :both")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    library, _, model = str(encoder.name).partition("/")
    options = {key: value for key, value in dict(encoder.options).items() if key != "image_size"}  # type: ignore[arg-type]
    states = {key: value.detach().cpu().contiguous().clone() for key, value in encoder.state_dict().items()}
    if layout == "torchvision":
        if not model.startswith("resnet") or options:
            raise CheckpointError(f"{encoder.name} {options or ''} has no like in torchvision. Type --to timm")
        torch.save(states, folder / "model.pth")
        return folder / "model.pth"
    if library not in ("timm", "torchvision") or (library == "torchvision" and not model.startswith("resnet")):
        raise CheckpointError(f"{encoder.name} has no like in timm, whose networks this layout holds")
    project = {"name": str(encoder.name), "options": dict(encoder.options)}  # type: ignore[arg-type]
    save_file(states, folder / WEIGHTS, metadata={"format": "pt"})
    own = {name: options.pop(name) for name in ("stem", "pool_grid", "levels") if name in options}
    description = {
        "architecture": model,
        "num_classes": 0,
        "num_features": int(encoder.dim),  # type: ignore[arg-type]
        "model_args": options | {"num_classes": 0} | _sized(encoder, transform),
        "pretrained_cfg": {
            "input_size": [3, transform.size, transform.size],
            "mean": list(transform.mean),
            "std": list(transform.std),
            "interpolation": transform.interpolation,
            "crop_pct": 1.0,
            "num_classes": 0,
        },
        "lgrep": project | {"changed": own, "weights_hash": weights_hash(encoder)},
    }
    write_text(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    write_text(folder / CARD, _card(encoder, transform, own, about or {}))
    return folder


def _sized(encoder: nn.Module, transform: EvaluationTransform) -> dict[str, Any]:
    options: dict[str, Any] = encoder.options  # type: ignore[assignment]
    return {"img_size": transform.size} if "image_size" in options and hasattr(encoder, "pos_embed") else {}


def _card(encoder: nn.Module, transform: EvaluationTransform, own: dict[str, Any], about: dict[str, Any]) -> str:
    lines = [
        "---",
        "library_name: timm",
        "tags: [image-feature-extraction, timm, lgrep]",
        "---",
        "",
        f"# {encoder.name}",
        "",
    ]
    lines.append(f"Image encoder with {encoder.dim} features, trained with lgrep. Pictures: {transform.size} px, ")
    lines[-1] += f"mean {list(transform.mean)}, std {list(transform.std)}, {transform.interpolation}."
    if own:
        lines += [
            "",
            f"Its network differs from timm's by {own}, which only lgrep builds: `lgrep.load_encoder(FOLDER)`.",
        ]
    else:
        lines += [
            "",
            "```python",
            "import timm",
            "",
            'model = timm.create_model("local-dir:FOLDER", num_classes=0)',
            "```",
        ]
    names = (
        "name",
        "choices",
        "budget",
        "seed",
        "data_hash",
        "weights_hash",
        "commit",
        "hardware",
        "versions",
        "metrics",
    )
    known = {name: about[name] for name in names if name in about}
    if known:
        lines += ["", "## Training record", "", "```json", json.dumps(known, indent=1, default=str), "```"]
    return "\n".join(lines) + "\n"
