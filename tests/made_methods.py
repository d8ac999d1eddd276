"""Small float64 methods and batches for every YAML of `configs/method` and `configs/language`."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import OmegaConf

from lgrep.backbones import build_backbone
from lgrep.backbones.norm import convert_batchnorm
from lgrep.config.locate import config_folder
from lgrep.config.spec import build, import_target, validate_spec
from lgrep.data.batch import Batch
from lgrep.methods.base import Method
from lgrep.methods.language import LanguageObjective, Modalities
from lgrep.optim import Optimisation

CLASSES, CONTEXT, VOCABULARY = 4, 5, 50
TOWER = {"name": "clip", "options": {"width": 16, "heads": 2, "layers": 1}}
# smaller than published, so that a test takes a fraction of a second
SMALL = {
    "projector_dims": [24, 12], "predictor_dims": [16, 12], "prototypes": 10, "hidden_dim": 16, "bottleneck_dim": 8,
    "queue_size": 11, "memory_size": 13, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
    "freeze_steps": 0, "freeze_share": 0.0, "queue_start": 0.0,
}  # fmt: skip
VIEWS = {
    "swav": (32, 32, 16), "dino": (32, 32, 16), "trex": (32, 16, 16), "mae": (32,), "stablerep": (32, 32, 32),
    "synclr": (32, 32, 16)}  # fmt: skip
OPTIONS = {"swav": {"queue_size": 6}, "simsiam": {"predictor_dims": [16, 12]}}
LANGUAGE_SMALL = {"embed_dim": 8, "hidden_dim": 12, "queue_size": 9}
PATCHED = ("mae", "synclr")  # methods for vision transformers
CROSS = {"siamlip": (12, 6), "byolip": (12, 6), "barlip": (12, 10)}
# methods that name a language objective consist of parts that are listed themselves
NAMES = sorted(
    path.stem for path in (config_folder() / "method").glob("*.yaml") if "/language@" not in path.read_text()
)
LANGUAGES = sorted(path.stem for path in (config_folder() / "language").glob("*.yaml") if path.stem != "none")


def node(group: str, name: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / group / f"{name}.yaml"))
    for parent in found.pop("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            found = {**node(group, parent), **found}
    return found


def make_method(name: str, language: str | None = None) -> Method:
    torch.manual_seed(0)
    spec = node("method", name)
    spec.update({key: value for key, value in {**SMALL, **OPTIONS.get(name, {})}.items() if key in spec})
    backbone = build_backbone("timm/test_resnet", image_size=32, channels=[8, 12, 16, 24])
    if name in PATCHED:
        backbone = build_backbone("timm/test_vit", image_size=32, several_sizes=name != "mae", patch_size=8)
    checked = validate_spec(spec, "method", ("backbone", "num_classes"))
    method: Method = build(checked, backbone=backbone, num_classes=CLASSES)
    if language is not None:
        method.language = make_language(language, method)
    method.optimisation = Optimisation("adamw", {}, 1e-3, 0.0, "norm_and_bias", 0, 100)
    convert_batchnorm(method)
    return method.double().train()


def make_language(name: str, method: Method) -> LanguageObjective:
    spec = node("language", name)
    if spec["tower"]["name"] != "features":
        spec["tower"] = TOWER
    accepted = import_target(spec["_target_"], "language").__init__.__annotations__
    spec.update({key: value for key, value in LANGUAGE_SMALL.items() if key in accepted})
    if spec.get("cross") in CROSS:
        hidden, out = CROSS[spec["cross"]]
        spec["cross_options"] = {"hidden_dim": hidden, "out_dim": out}
    modalities = Modalities(
        method.backbone.dim, getattr(getattr(method, "projector", None), "out_dim", 0), VOCABULARY, CONTEXT, 7, 3
    )
    objective: LanguageObjective = build(validate_spec(spec, "language", ("modalities",)), modalities=modalities)
    objective.attach(method.backbone)
    return objective


def make_batch(sizes: tuple[int, ...], anchors: int = 6, seed: int = 3) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    row = torch.arange(anchors).expand(len(sizes), -1).clone()
    return Batch(
        views=[torch.randn(anchors, 3, size, size, generator=draw, dtype=torch.float64) for size in sizes],
        row=row,
        group=row.clone(),
        label=(row % CLASSES).clone(),
        text=torch.randint(1, VOCABULARY, (3, anchors, CONTEXT), generator=draw),
        text_group=torch.arange(anchors).expand(3, -1).clone(),
        caption_features=torch.randn(anchors, 7, generator=draw, dtype=torch.float64),
        keys=torch.stack([torch.zeros(anchors, dtype=torch.long), torch.arange(anchors)]),
    )


def cases() -> list[tuple[str, str | None, tuple[int, ...]]]:
    alone: list[tuple[str, str | None, tuple[int, ...]]] = [
        (name, None, VIEWS.get(name, (32, 32))) for name in NAMES if name != "image_text"
    ]
    languages = [("simclr" if name in ("slip", "lgslip") else "image_text", name) for name in LANGUAGES]
    return alone + [(method, name, (32, 32) if name == "lgslip" else (32, 32, 32)) for method, name in languages]


CASES = cases()
IDS = [name if language is None else f"{name}+{language}" for name, language, _ in CASES]
