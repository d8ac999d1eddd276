"""Published files with the names that their code writes: read, refused, and written for others."""

from __future__ import annotations

import argparse
import collections
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import convert_checkpoint
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lgrep.checkpoints.encoder import load_encoder
from lgrep.checkpoints.exporting import export_encoder
from lgrep.checkpoints.published import read_published
from lgrep.errors import CheckpointError

PICTURES = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def vit(width: int = 384, heads: int = 6) -> nn.Module:
    torch.manual_seed(1)
    name = {384: "vit_small_patch16_224", 192: "vit_tiny_patch16_224"}[width]
    return timm.create_model(name, num_classes=0, depth=2, num_heads=heads).eval()


def resnet() -> nn.Module:
    torch.manual_seed(2)
    model = torchvision.models.resnet50()
    model.fc = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def under(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in module.state_dict().items()}


def rest(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(3) for name in names}


KINDS = ("stablerep", "synclr", "lgssl", "clip_rocket", "slip", "trex", "simclr", "simsiam", "swav", "moco_v3", "mae", "dino",
         "plain")  # fmt: skip


@cache
def files() -> dict[str, tuple[nn.Module, Any]]:
    """kind -> (its encoder, the file's content), as the papers' code names things."""
    r50, small, moco = resnet(), vit(), vit(heads=12)
    args = argparse.Namespace(lr=0.1, model="CL2L_R50_CL2L", nested=argparse.Namespace(a=1))
    text = rest("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "positional_embedding", "ln_final.bias",
                "logit_scale", "image_projection", "text_projection")  # fmt: skip
    heads = rest("image_mlp.layer1.weight", "image_mlp.bn1.running_mean")
    rocket = {f"module.{key}": value for key, value in text.items() if "projection" not in key}
    rocket |= rest("module.l2l_logit_scale", "module.image_projector.weight", "module.l2l_text_projector.layer1.weight")
    return {
        "stablerep": (small, {"model": under("visual.", small) | heads | text, "epoch": 14, "args": args}),
        "synclr": (small, {"model": under("student.backbone.", vit(heads=6)) | under("teacher.backbone.", small)
                           | rest("student.backbone.mask_token", "teacher.proj.0.weight", "student.pred.0.weight")}),
        "lgssl": (r50, {"state_dict": under("visual_backbone.", r50) | rest("visual_project.0.weight", "clip_scale"),
                        "global_step": 250_000}),
        "clip_rocket": (r50, {"state_dict": under("module.visual.", r50) | rocket, "args": args}),
        "slip": (moco, {"state_dict": under("module.visual.", moco) | {f"module.{key}": v for key, v in (text | heads).items()}}),
        "trex": (r50, {"model": under("module.model.encoder.", r50)
                       | under("module.model_ema.encoder.", resnet()) | rest("module.memory.features", "module.model.head.layers.0.weight"),
                       "args": args}),
        "simclr": (r50, {"state_dict": under("encoder.", r50) | rest("projection.model.0.weight", "encoder.fc.weight")}),
        "simsiam": (r50, {"state_dict": under("module.encoder.", r50) | rest("module.encoder.fc.0.weight", "module.predictor.0.weight")}),
        "swav": (r50, under("module.", r50) | rest("module.projection_head.0.weight", "module.prototypes.weight")),
        "moco_v3": (moco, {"state_dict": under("module.base_encoder.", moco) | under("module.momentum_encoder.", moco)
                           | rest("module.base_encoder.head.0.weight", "module.predictor.0.weight")}),
        "mae": (small, {"model": small.state_dict() | rest("mask_token", "decoder_embed.weight", "decoder_pos_embed")}),
        "dino": (small, {"teacher": under("backbone.", small) | rest("head.mlp.0.weight"),
                         "student": under("module.backbone.", vit(heads=6))}),
        "plain": (r50, r50.state_dict() | rest("fc.weight", "fc.bias")),
    }  # fmt: skip


@cache
def expected_features(kind: str) -> tuple[Tensor, Tensor]:
    """Pictures and their features; small ones where the network takes any size."""
    encoder, _ = files()[kind]
    pictures = PICTURES[..., :64, :64] if isinstance(encoder, torchvision.models.ResNet) else PICTURES
    with torch.inference_mode():
        return pictures, encoder(pictures)


def test_every_kind_is_here() -> None:
    assert set(KINDS) == set(files())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [False, True], ids=["found", "told"])
def test_features_of_published_files_are_those_of_their_encoder(kind: str, told: bool, tmp_path: Path) -> None:
    _, content = files()[kind]
    pictures, expected = expected_features(kind)
    path = tmp_path / "file.pth"
    torch.save(content, path)
    with torch.inference_mode():
        if told:
            assert convert_checkpoint.main([str(path), "--out", str(tmp_path / "out"), "--format", kind]) == 0
            ours, transform = load_encoder(tmp_path / "out")
        else:
            ours, transform = load_encoder(path)
            assert read_published(path).kind == kind
        torch.testing.assert_close(ours(pictures), expected, rtol=1e-5, atol=1e-5)
    assert transform.size == 224


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"odd.weight": torch.zeros(2)}}, "no known kind"),
        ({"model": under("visual.", vit()) | rest("surprise.weight")}, r"surprise\.weight"),
        ([1, 2], "holds a list"),
        ({}, "no known kind"),
        ({"state_dict": {key: value for key, value in under("visual_backbone.", resnet()).items() if "layer3.2" not in key}},
         "no name here|missing"),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_a_reason(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path / "file.pth")


class Trap:
    def __reduce__(self) -> Any:
        return os.system, ("touch trapped",)


class Counter(collections.Counter):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("evil", [Trap(), {"args": Trap()}, Counter()], ids=["top", "nested", "class"])
def test_nothing_in_a_file_is_executed(evil: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": evil}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="never loaded"):
        load_encoder(tmp_path / "file.pth")
    assert not (tmp_path / "trapped").exists()


def test_an_exported_folder_is_what_timm_loads(tmp_path: Path) -> None:
    encoder, transform = load_encoder("random/timm/vit_tiny_patch16_224", image_size=32)
    folder = export_encoder(encoder, transform, tmp_path / "out", about={"seed": 3})
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    ours, again = load_encoder(folder)
    pictures = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(theirs(pictures), encoder(pictures)) and torch.equal(ours(pictures), encoder(pictures))
    assert again == transform and '"seed": 3' in (folder / "README.md").read_text()


def test_an_exported_resnet_is_what_torchvision_loads(tmp_path: Path) -> None:
    encoder, transform = load_encoder("random/timm/resnet18", image_size=64)
    path = export_encoder(encoder, transform, tmp_path / "out", "torchvision")
    theirs = torchvision.models.resnet18()
    missing, unexpected = theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert sorted(missing) == ["fc.bias", "fc.weight"] and not unexpected
    theirs.fc = nn.Identity()
    pictures = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(pictures), encoder(pictures))
    with pytest.raises(CheckpointError, match="no like in torchvision"):
        export_encoder(load_encoder("random/timm/vit_tiny_patch16_224")[0], transform, tmp_path / "x", "torchvision")


def test_a_description_cannot_ask_for_more_than_a_network(tmp_path: Path) -> None:
    encoder, transform = load_encoder("random/timm/resnet18", image_size=64)
    folder = export_encoder(encoder, transform, tmp_path / "out")
    about = json.loads((folder / "config.json").read_text())
    about["lgrep"]["options"] = {"checkpoint_path": "/etc/passwd"}
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="checkpoint_path"):
        load_encoder(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe"):
        load_encoder(folder)


@pytest.mark.parametrize(("model", "heads"), [("CL2L_VITS16MOCO_CL2L", 12), ("CL2L_VITS16_CL2L", 6)])
def test_heads_of_clip_rockets_small_vits_come_from_its_arguments(model: str, heads: int, tmp_path: Path) -> None:
    encoder = vit(heads=heads)
    content = {"state_dict": under("module.visual.", encoder) | rest("module.l2l_logit_scale")}
    torch.save(content | {"args": argparse.Namespace(model=model)}, tmp_path / "known.pt")
    torch.save(content, tmp_path / "unknown.pt")
    ours, _ = load_encoder(tmp_path / "known.pt")
    with torch.inference_mode():
        torch.testing.assert_close(ours(PICTURES), encoder(PICTURES), rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError, match="--heads 12"):
        load_encoder(tmp_path / "unknown.pt")


def test_a_project_checkpoint_without_its_encoder_is_no_published_file(tmp_path: Path) -> None:
    torch.save({"lgrep": {}, "state_dict": {}}, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match="does not say which backbone"):
        load_encoder(tmp_path / "file.ckpt")
