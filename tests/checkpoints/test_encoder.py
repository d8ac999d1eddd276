from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from lgrep.backbones.registry import build_backbone
from lgrep.checkpoints import encoder as module
from lgrep.checkpoints.encoder import load_encoder
from lgrep.checkpoints.transform import EvaluationTransform
from lgrep.errors import CheckpointError, ConfigError

NAME = "timm/test_resnet"


def _content() -> dict[str, Any]:
    torch.manual_seed(1)
    backbone = build_backbone(NAME)
    states = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    image = {"size": 40, "mean": [0.5, 0.6, 0.7], "std": [0.1, 0.2, 0.3]}
    about = {"version": "0", "backbone": {"name": NAME, "options": {}}, "image": image, "step": 3}
    return {"state_dict": {**states, "projector.weight": torch.zeros(2)}, "lgrep": about}


def _save(content: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def test_checkpoint_and_run_folder_give_the_saved_encoder(tmp_path: Path) -> None:
    content = _content()
    file = _save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    for source in (file, tmp_path / "run", str(file)):
        encoder, transform = load_encoder(source)
        assert not encoder.training
        for key, value in encoder.state_dict().items():
            assert torch.equal(value, content["state_dict"][f"backbone.{key}"])
        assert transform == EvaluationTransform(40, (0.5, 0.6, 0.7), (0.1, 0.2, 0.3))
        assert encoder(transform(Image.new("RGB", (50, 60)))[None]).shape == (1, encoder.dim)
    assert load_encoder(file, image_size=24)[1].size == 24


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    content = _content()
    states = content["state_dict"]
    lost = next(key for key in states if key.endswith(".weight"))
    states["backbone.odd.key"] = torch.zeros(1)
    reshaped = next(key for key in states if key.endswith(".bias"))
    states[reshaped] = torch.zeros(1, 2)
    del states[lost]
    with pytest.raises(CheckpointError) as caught:
        load_encoder(_save(content, tmp_path / "a.ckpt"))
    for key in (lost, "backbone.odd.key", reshaped):
        assert key.removeprefix("backbone.") in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    file = _save(_content(), tmp_path / "a.ckpt")
    data = file.read_bytes()
    file.write_bytes({"cut": data[: len(data) // 2], "garbage": b"\x80nonsense" * 9, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match="a.ckpt"):
        load_encoder(file)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_objects_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _save({**_content(), "bomb": _Bomb()}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(_Bomb()))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(CheckpointError):
            load_encoder(name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "options", [{"checkpoint_path": "x.pth"}, {"pretrained": True}, {"act": {"_target_": "os.system"}}]
)
def test_options_that_would_open_or_build_things_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    content = _content()
    content["lgrep"]["backbone"]["options"] = options
    with pytest.raises(CheckpointError, match=next(iter(options))):
        load_encoder(_save(content, tmp_path / "a.ckpt"))


def test_foreign_and_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model"):
        load_encoder(_save({"model": {}}, tmp_path / "a.ckpt"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_encoder(tmp_path / "none.ckpt")
    _save({}, tmp_path / "run" / "checkpoints" / "step5.ckpt")
    with pytest.raises(CheckpointError, match="step5.ckpt"):
        load_encoder(tmp_path / "run")
    content = _content()
    del content["lgrep"]["image"]
    with pytest.raises(CheckpointError, match="image"):
        load_encoder(_save(content, tmp_path / "b.ckpt"))


def test_unknown_names_show_the_nearest() -> None:
    for name in ("timm/test_resnett", "random/timm/test_resnett", "test_resnett"):
        with pytest.raises(ConfigError, match="test_resnet"):
            load_encoder(name)
    with pytest.raises(ConfigError, match="random/timm"):
        load_encoder("random")
    with pytest.raises(ConfigError, match="'runs/nothing' is no file or folder that is there, and no model .*timm"):
        load_encoder("runs/nothing")


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> nn.Module:
        raise OSError("no route")

    monkeypatch.setattr(module, "build_backbone", offline)
    with pytest.raises(CheckpointError, match="random/timm/test_resnet"):
        load_encoder(NAME)


def test_public_names_ask_for_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def build(name: str, image_size: int | None = None, pretrained: bool = False) -> nn.Module:
        asked.append((name, image_size, pretrained))
        return build_backbone("timm/test_resnet", image_size=image_size)

    monkeypatch.setattr(module, "build_backbone", build)
    _, transform = load_encoder("torchvision/resnet18", image_size=64)
    assert asked == [("torchvision/resnet18", 64, True)]
    assert transform.size == 64


def test_random_weights_follow_the_seed_only() -> None:
    state = torch.get_rng_state()
    first, again, other = (load_encoder(f"random/{NAME}", 48, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    key = next(iter(first.state_dict()))
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_pixels_are_the_flattened_picture() -> None:
    encoder, transform = load_encoder("pixels")
    picture = torch.randn(2, 3, 24, 24)
    assert transform.size == 24
    assert torch.equal(encoder(picture), picture.reshape(2, -1))
    assert encoder.dim == 1728


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1", "LA"])
def test_transform_takes_any_mode(mode: str) -> None:
    picture = Image.new("RGB", (32, 20), (255, 255, 255)).convert(mode)
    pixels = EvaluationTransform(16, (0.0,) * 3, (1.0,) * 3)(picture)
    assert pixels.shape == (3, 16, 16)
    assert pixels.min() > 0.99


def test_transform_crops_the_centre_lays_on_white_and_turns_upright() -> None:
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    wide = Image.new("RGB", (60, 20))
    wide.paste((255, 0, 0), (20, 0, 40, 20))
    assert torch.equal(EvaluationTransform(20, **plain)(wide)[0], torch.ones(20, 20))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert torch.equal(EvaluationTransform(8, **plain)(clear), torch.ones(3, 8, 8))
    turned = Image.new("RGB", (8, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 4))  # white above
    turned.getexif()[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    shown = EvaluationTransform(8, **plain)(turned)
    assert torch.equal(shown[0, :, 4:], torch.ones(8, 4))
    assert shown[0, :, :4].sum() == 0


def test_transform_normalises() -> None:
    transform = EvaluationTransform(4, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    pixels = transform(Image.new("RGB", (9, 9), (51, 102, 204)))
    expected = torch.tensor([(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (0.8 - 0.3) / 2])
    torch.testing.assert_close(pixels.mean((1, 2)), expected)
