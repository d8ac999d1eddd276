"""Compiled networks give the eager ones' numbers under the same names."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from made_methods import make_batch, make_method
from torch import Tensor, nn

from lgrep.backbones import build_backbone
from lgrep.errors import ConfigError
from lgrep.methods.byol import BYOL
from lgrep.methods.modules.heads import MLPHead
from lgrep.training import acceleration
from lgrep.training.acceleration import compile_parts, compiled_parts
from training.ranks import quick
from training.runs import overrides, run, state


class Small(nn.Module):
    """A network of any size of input, with dropout."""

    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dropout, self.calls = nn.Conv2d(3, self.dim, 3), nn.Dropout(0.4), 0

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.conv(pictures).relu()).mean(dim=(2, 3))
        return features


def gradients(method: BYOL, sizes: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    method.zero_grad()
    torch.manual_seed(7)
    loss = method.training_loss(make_batch(sizes)).loss
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in method.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_student_teacher_and_heads_equal_eager_at_every_size(backend: str) -> None:
    """The same dropout masks; two sizes; in place, so that states are interchangeable."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager = BYOL(Small(), projector_dims=(12, 6), predictor_dims=(6,)).double().train()  # type: ignore[arg-type]
    compiled = copy.deepcopy(eager)
    parts = compile_parts(compiled, backend)
    assert [type(part) for part in parts] == [Small, MLPHead, MLPHead, Small, MLPHead]
    keys = list(compiled.state_dict())
    assert keys == list(eager.state_dict()) and not any("_orig_mod" in key for key in keys)
    for sizes in ((16, 16), (12, 12)):
        (loss, found), (expected, wanted) = gradients(compiled, sizes), gradients(eager, sizes)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        for one in (eager, compiled):
            one.after_step()
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value, rtol=1e-9, atol=1e-12, msg=key)
    compiled.load_state_dict(eager.state_dict())
    pictures = make_batch((10,)).views[0]
    assert torch.equal(compiled.eval().backbone(pictures), eager.eval().backbone(pictures))
    assert copy.deepcopy(compiled).backbone(pictures).shape == (6, 8)


def test_what_is_compiled() -> None:
    """No loss, no queue, nothing that is only a list; MAE calls the parts of its backbone one by one."""

    def names(method: str, language: str | None = None) -> set[str]:
        made = make_method(method, language)
        known = {id(module): name for name, module in made.named_modules()}
        return {known[id(part)] for part in compiled_parts(made)}

    assert names("nnclr") == {"backbone", "projector", "predictor"}
    assert names("mae") >= {"backbone.patch_embed", "backbone.blocks", "backbone.norm", "decoder"}
    assert "teacher.parts.backbone.blocks" in names("synclr") and "teacher.parts.backbone" not in names("synclr")
    assert names("image_text", "clip") == {
        "backbone", "language.tower", "language.image_projection", "language.text_projection",
    }  # fmt: skip
    assert "language.cross.teacher.parts.heads.0.text" in names("image_text", "byolip")


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_run(tmp_path: Path) -> None:
    """Probes, which see other batch sizes, compile nothing."""
    torch._dynamo.reset()
    more = ("duration.steps=3", "schedule.warmup_steps=1", "trainer.precision=64-true", "optimizer.eps=1e-5")
    more = (*more, "+backbone.options.depth=1", "+backbone.options.embed_dim=12", "+backbone.options.num_heads=2")
    for name, mode in (("eager", "false"), ("compiled", "aot_eager")):
        torch._dynamo.utils.counters.clear()
        arguments = overrides(
            tmp_path / "data", tmp_path / name, "backbone=vit_tiny_small", *more, f"trainer.compile={mode}"
        )
        run([*quick(arguments), "callbacks=default", "callbacks.plots=null", "callbacks.positives=null"])
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6
    eager, compiled = (state(tmp_path / name)["state_dict"] for name in ("eager", "compiled"))
    assert list(eager) == list(compiled)
    for key, value in eager.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-9, atol=1e-11, msg=key)


def test_without_a_compiler_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler.*trainer\.compile=false"):
        compile_parts(make_method("simclr"))


@pytest.mark.slow
def test_activation_checkpointing_and_compilation_together() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = build_backbone("timm/test_vit", 32, patch_size=8, drop_path_rate=0.3).train()
    both = copy.deepcopy(plain)
    assert acceleration.checkpoint_activations(both)
    both.compile(backend="aot_eager", dynamic=False)
    found = []
    for network in (plain, both):
        torch.manual_seed(3)
        network(torch.ones(3, 3, 32, 32)).square().sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
