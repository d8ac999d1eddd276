"""What every method and language objective promises; a new YAML is covered without an edit here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import run_processes
from made_methods import CASES, CLASSES, IDS, NAMES, OPTIONS, SMALL, make_batch, make_method, node
from torch import Tensor

import lgrep
from lgrep.backbones import build_backbone
from lgrep.config.spec import build, validate_spec
from lgrep.data.batch import Batch
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.teacher import Teacher


def part(batch: Batch, rows: slice) -> Batch:
    assert batch.text is not None and batch.text_group is not None
    assert batch.caption_features is not None and batch.keys is not None
    return Batch(
        views=[view[rows] for view in batch.views], row=batch.row[:, rows], group=batch.group[:, rows],
        label=batch.label[:, rows], text=batch.text[:, rows], text_group=batch.text_group[:, rows],
        caption_features=batch.caption_features[rows], keys=batch.keys[:, rows],
    )  # fmt: skip


def step(method: Method, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of two steps without an optimiser, so that queues and teachers have been used."""
    method.objective(batch)
    method.after_step()
    output = method.objective(batch)
    output.loss.backward()
    return output.loss.detach(), {
        name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize(("name", "language", "sizes"), CASES, ids=IDS)
def test_a_step_learns_in_the_backbone_and_in_no_teacher(
    name: str, language: str | None, sizes: tuple[int, ...]
) -> None:
    method = make_method(name, language)
    batch = make_batch(sizes)
    output = method.objective(batch)
    assert isinstance(output, StepOutput) and output.loss.ndim == 0 and bool(output.loss.isfinite())
    assert output.features.shape == (len(sizes) * 6, method.backbone.dim)
    output.loss.backward()
    reached = [parameter for parameter in method.backbone.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in reached)
    assert any(float(parameter.grad.abs().max()) > 0 for parameter in reached)  # type: ignore[union-attr]
    for teacher in [module for module in method.modules() if isinstance(module, Teacher)]:
        assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(
    "name", [name for name in NAMES if any(isinstance(m, Teacher) for m in make_method(name).modules())]
)
def test_a_teacher_starts_as_a_copy_and_follows(name: str) -> None:
    method = make_method(name)
    teacher: Any = method.teacher
    student = {key: getattr(method, key) for key in teacher.parts}
    for key, module in student.items():
        for own, theirs in zip(teacher[key].parameters(), module.parameters(), strict=True):
            assert own is not theirs and bool((own == theirs).all())
    before = copy.deepcopy(teacher)
    with torch.no_grad():
        for module in student.values():
            for parameter in module.parameters():
                parameter.add_(1.0)
    teacher.follow(0.9, **student)
    for key, module in student.items():
        triples = zip(before[key].parameters(), teacher[key].parameters(), module.parameters(), strict=True)
        for old, new, theirs in triples:
            torch.testing.assert_close(new, 0.9 * old + 0.1 * theirs)


def on_one_rank(rank: int, case: tuple[str, str | None, tuple[int, ...]], shares: tuple[int, ...]) -> Any:
    name, language, sizes = case
    rows = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    return step(make_method(name, language), part(make_batch(sizes), rows))


@pytest.mark.ddp
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_two_processes_equal_one(case: tuple[str, str | None, tuple[int, ...]]) -> None:
    name, language, sizes = case
    loss, gradients = step(make_method(name, language), make_batch(sizes))
    ranks = run_processes(on_one_rank, 2, case, (2, 4))
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, loss, rtol=1e-9, atol=1e-10)
    for key, gradient in gradients.items():
        mean = (ranks[0][1][key] + ranks[1][1][key]) / 2
        # timm resamples the positions of another resolution in float32
        atol = 1e-7 if key.endswith("pos_embed") and len(set(sizes)) > 1 else 1e-9
        torch.testing.assert_close(mean, gradient, rtol=1e-7, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", ["dino", "swav", "trex"])
def test_multi_crop_works_on_a_vit(name: str) -> None:
    torch.manual_seed(0)
    spec = node("method", name)
    spec.update({key: value for key, value in {**SMALL, **OPTIONS.get(name, {})}.items() if key in spec})
    checked = validate_spec(spec, "method", ("backbone", "num_classes"))
    backbone = build_backbone("timm/test_vit", image_size=32, several_sizes=True)
    assert backbone.options["dynamic_img_size"] is True
    method: Method = build(checked, backbone=backbone, num_classes=CLASSES)
    output = method.double().training_loss(make_batch((32, 16, 16) if name == "trex" else (32, 32, 16)))
    assert bool(output.loss.isfinite()) and output.features.shape == (18, backbone.dim)


def test_every_method_file_has_a_configuration() -> None:
    files = {path.stem for path in (Path(lgrep.__file__).parent / "methods").glob("*.py")}
    assert files - {"__init__", "base"} <= set(NAMES)
