"""Encoders whose features include the projector's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_methods import NAMES, make_method
from torch import Tensor
from torch.nn.functional import normalize

from lgrep.checkpoints.encoder import is_checkpoint, load_encoder
from lgrep.checkpoints.exporting import export_encoder
from lgrep.checkpoints.heads import split_features
from lgrep.errors import CheckpointError, ConfigError
from lgrep.evaluation.subjects import load_models
from lgrep.evaluation.tasks import describe_network
from lgrep.methods.base import Method
from lgrep.methods.modules.heads import MLPHead

WITH_MLP = [name for name in NAMES if isinstance(getattr(make_method(name), "projector", None), MLPHead)]


def content_of(method: Method) -> dict[str, Any]:
    """What a run of this method saves."""
    method.image = {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
    content: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(content)
    return content


def saved(method: Method, folder: Path) -> Path:
    torch.save(content_of(method), folder / "last.ckpt")
    return folder / "last.ckpt"


def expected(method: Method, pictures: Tensor) -> tuple[Tensor, Tensor]:
    method.eval()
    with torch.no_grad():
        features = method.backbone(pictures.double())
        return features.float(), method.projector(features).float()  # type: ignore[operator]


@pytest.mark.parametrize("name", WITH_MLP)
def test_the_projector_of_every_method_comes_back_with_its_running_statistics(name: str, tmp_path: Path) -> None:
    method = make_method(name)
    for module in method.projector.modules():  # type: ignore[union-attr]
        if isinstance(module, torch.nn.BatchNorm1d) and module.running_mean is not None:
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    file = saved(method, tmp_path)
    pictures = torch.rand(3, 3, 32, 32)
    features, projected = expected(method, pictures)
    with torch.no_grad():
        for suffix, wanted in (
            ("", features),
            (":backbone", features),
            (":projector", projected),
            (":both", torch.cat([normalize(features, dim=1), normalize(projected, dim=1)], dim=1)),
        ):
            encoder, transform = load_encoder(f"{file}{suffix}")
            assert not any(module.training for module in encoder.modules())
            assert encoder.dim == wanted.shape[1] and transform.size == 32
            torch.testing.assert_close(encoder(pictures), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mae", "supervised", "trex", "dino"])
def test_a_method_without_such_a_head_says_so(name: str, tmp_path: Path) -> None:
    method = make_method(name)
    saved(method, tmp_path)
    with pytest.raises(
        ConfigError, match=rf"last.ckpt:both: .* no projector .*{type(method).__name__}.*Type .*last.ckpt$"
    ):
        load_encoder(f"{tmp_path / 'last.ckpt'}:both")
    assert load_encoder(tmp_path / "last.ckpt")[0].dim == method.backbone.dim


def test_a_damaged_head_is_named(tmp_path: Path) -> None:
    content = content_of(make_method("simclr"))
    described = content["lgrep"]["projector"]
    for layers, words in (
        ({**described, "relu1": "tanh"}, "KeyError: 'tanh'"),
        ({**described, "a.b": "relu"}, "is incomplete"),
        ({"linear1": "linear"}, "unexpected: "),
        ({**described, "relu1": ["relu"]}, "TypeError"),
    ):
        broken_description = {**content["lgrep"], "projector": layers}
        torch.save({**content, "lgrep": broken_description}, tmp_path / "last.ckpt")
        with pytest.raises(CheckpointError, match=words):
            load_encoder(f"{tmp_path / 'last.ckpt'}:both")
    for change, words in (
        (lambda s: s.pop("projector.linear1.weight"), "'projector' is incomplete"),
        (lambda s: s.update({"projector.norm1.weight": torch.zeros(3)}), "of another shape: norm1.weight"),
        (lambda s: s.update({"projector.odd": torch.zeros(3)}), "unexpected: odd"),
        (lambda s: s.update({"projector.linear1.weight": torch.zeros(24, 5)}), "does not fit its backbone"),
    ):
        broken = dict(content["state_dict"])
        change(broken)
        torch.save({**content, "state_dict": broken}, tmp_path / "last.ckpt")
        with pytest.raises(CheckpointError, match=words):
            load_encoder(f"{tmp_path / 'last.ckpt'}:projector")


def test_only_checkpoints_have_one() -> None:
    for name in ("pixels:both", "random/timm/test_resnet:projector"):
        with pytest.raises(ConfigError, match="only checkpoints of lgrep have projectors. Type "):
            load_encoder(name)


def test_missing_runs_and_misspelt_features_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'runs/nothing' is no file or folder that is there"):
        load_encoder("runs/nothing:both")
    with pytest.raises(CheckpointError, match=r"did you mean 'both'\? Type .*:both"):
        load_encoder(f"{tmp_path}:bth")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(CheckpointError, match=rf"did you mean 'both'\? Type {tmp_path.name}:both"):
        load_encoder(f"{tmp_path.name}:bth")


def test_names() -> None:
    assert split_features("a:b/run") == ("a:b/run", "backbone")
    assert split_features("a:b/run:projector") == ("a:b/run", "projector")
    assert split_features(":both") == (":both", "backbone")
    assert not is_checkpoint("timm/resnet50:both") and is_checkpoint("./nowhere:both")


def test_they_are_measured_side_by_side_and_never_exported(tmp_path: Path) -> None:
    method = make_method("stablerep")
    file = saved(method, tmp_path)
    names = [f"{file}", f"{file}:both", f"{file}:projector"]
    own, both, projector, untrained, pixels = load_models(names)
    assert [model.subject.name for model in (own, both, projector)] == names
    assert both.subject.budget == own.subject.budget and both.own_statistics
    assert untrained.subject.encoder.dim == own.subject.encoder.dim and pixels.subject.name == "pixels"
    assert len({describe_network(model.subject.encoder) for model in (own, both, projector)}) == 3
    with pytest.raises(CheckpointError, match="without :projector or :both"):
        export_encoder(both.subject.encoder, both.subject.transform, tmp_path / "out")  # type: ignore[arg-type]
