"""The published files: where each keeps its encoder, and what else is in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lgrep.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from lgrep.errors import CheckpointError, did_you_mean

IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
CLASSIFIERS = (r"fc\.", r"head\.(weight|bias)$", r"head\.fc\.", r"classifier\.")


@dataclass(frozen=True)
class Format:
    """A kind of published file.

    Attributes:
        about: who writes it.
        roots: entries of the file in which the weights may lie, tried in turn; "" is the file itself.
        prefixes: of the encoder's names, tried in turn; the first one that some name has is taken away.
        left_out: patterns of names, prefix taken away, that belong to heads inside the encoder.
        beside: patterns of whole names that belong to other parts of the model. A name that is neither the encoder's
            nor matched here is an error.
        heads: attention heads of a ViT of the width in the key, where shapes mislead.
    """

    about: str
    roots: tuple[str, ...]
    prefixes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    heads: Mapping[int, int] | None = None


TEXT = (r"transformer\.", r"token_embedding\.", r"positional_embedding$", r"ln_final\.", r"logit_scale$")
PROJECTIONS = (r"image_projection", r"text_projection", r"image_mlp\.")
FORMATS: dict[str, Format] = {
    "stablerep": Format("StableRep (model of epoch_last.pth)", ("model", ""), ("visual.",),
                        (r"head\.",), (*TEXT, *PROJECTIONS)),
    "synclr": Format("SynCLR (training file; the teacher where there is one)", ("model", "state_dict", ""),
                     ("module.teacher.backbone.", "teacher.backbone.", "module.student.backbone.", "student.backbone."),
                     (r"mask_token$",), (r"(module\.)?(student|teacher)\.",)),
    "lgssl": Format("language-guided SSL (training file)", ("state_dict",), ("visual_backbone.",), (r"fc\.",),
                    (r"visual_project", r"proj_mlp", r"pred_mlp", r"clip_vis_project", r"language_", r"clip_scale$",
                     r"prototypes", r"queue")),
    "clip_rocket": Format("CLIP-rocket", ("state_dict",), ("module.visual.", "visual."), (r"head\.",),
                          (*TEXT, r"(l2l_)?(image|text)_projector", r"l2l_logit_scale$", r"barlip_", r"siamlip_", r"swalip",
                           r"image_to_text_predictor", r"text_to_image_predictor", r"prototypes")),
    "slip": Format("SLIP and its CLIP and SimCLR", ("state_dict",), ("module.visual.", "visual."), (r"head\.",),
                   (*TEXT, *PROJECTIONS), {384: 12}),
    "trex": Format("t-ReX (full checkpoint)", ("model", ""), ("module.model.encoder.", "model.encoder."), (r"fc\.",),
                   (r"module\.(model\.head|model_ema|memory|clf)\.",)),
    "simclr": Format("SimCLR of lightning-bolts", ("state_dict",), ("encoder.",), (r"fc\.",),
                     (r"projection\.", r"non_linear_evaluator\.")),
    "simsiam": Format("SimSiam", ("state_dict",), ("module.encoder.",), (r"fc\.",), (r"module\.predictor\.",)),
    "swav": Format("SwAV", ("state_dict", ""), ("module.",), (r"projection_head\.", r"prototypes\.", *CLASSIFIERS)),
    "moco_v3": Format("MoCo v3", ("state_dict",), ("module.base_encoder.",), (r"fc\.", r"head\."),
                      (r"module\.(momentum_encoder|predictor)\.",), {384: 12}),
    "mae": Format("MAE", ("model",), ("",), (r"decoder_", r"mask_token$", *CLASSIFIERS)),
    "dino": Format("DINO (training file: the teacher)", ("teacher",), ("module.backbone.", "backbone."), (r"head\.",),
                   (r"(module\.)?head\.",)),
    "plain": Format("timm, torchvision, or a released bare encoder", ("state_dict", "model", ""), ("module.", ""),
                    CLASSIFIERS),
}  # fmt: skip


def encoder_of(content: Mapping[str, Any], kind: str, place: str) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's weights in a file, and the names that were left out on purpose.

    Args:
        content: the file's dict.
        kind: key of `FORMATS`, or `auto`: the first format whose names the file has.
        place: for messages.

    Raises:
        CheckpointError: an unknown kind, or a file with other names.
    """
    if kind != "auto":
        if kind not in FORMATS:
            raise CheckpointError(f"no format '{kind}'; {did_you_mean(kind, FORMATS)} Known: {', '.join(FORMATS)}")
        return _taken(content, kind, place)
    fitting = [name for name in FORMATS if _fits(content, FORMATS[name])]
    problems = []
    for name in fitting:
        try:
            return _taken(content, name, place)
        except CheckpointError as error:
            problems.append(str(error))
    shown = ", ".join(sorted(map(str, content))[:5])
    detail = (
        problems[0] if problems else f"none of the known formats ({', '.join(FORMATS)}) has its names ({shown}, ...)"
    )
    raise CheckpointError(detail if problems else f"{place}: {detail}")


def _weights(content: Mapping[str, Any], root: str) -> dict[str, Tensor]:
    found = content.get(root) if root else content
    if not isinstance(found, Mapping):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _root(content: Mapping[str, Any], form: Format) -> tuple[dict[str, Tensor], str]:
    """The weights, and the prefix of the encoder's among them; no weights where nothing fits."""
    for root in form.roots:
        weights = _weights(content, root)
        for prefix in form.prefixes:
            if weights and any(key.startswith(prefix) for key in weights):
                return weights, prefix
    return {}, ""


def _fits(content: Mapping[str, Any], form: Format) -> bool:
    weights, prefix = _root(content, form)
    own = {key.removeprefix(prefix) for key in weights if key.startswith(prefix)}
    return bool({"conv1.weight", "patch_embed.proj.weight"} & own)


def _taken(content: Mapping[str, Any], kind: str, place: str) -> tuple[dict[str, Tensor], list[str]]:
    form = FORMATS[kind]
    weights, prefix = _root(content, form)
    if not weights:
        shown = ", ".join(sorted(map(str, content))[:5])
        raise CheckpointError(
            f"{place} is no file of {kind}: it needs {' or '.join(repr(root) for root in form.roots if root)} with names "
            f"that begin with {' or '.join(map(repr, form.prefixes))}, and has {shown}"
        )
    encoder: dict[str, Tensor] = {}
    left: list[str] = []
    unknown: list[str] = []
    for key, value in weights.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not _matches(name, form.left_out):
            # where the prefix is empty everything is the encoder's
            encoder[name] = value
        elif key.startswith(prefix) or _matches(key.removeprefix("module."), form.beside) or _matches(key, form.beside):
            left.append(key)
        else:
            unknown.append(key)
    if unknown:
        more = ", ..." if len(unknown) > 4 else ""
        raise CheckpointError(
            f"{place}, read as {kind}, has {len(unknown)} names that belong to no known part: "
            f"{', '.join(sorted(unknown)[:4])}{more}. Type --format NAME if it is another kind"
        )
    return encoder, left


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.match(pattern, name) for pattern in patterns)
