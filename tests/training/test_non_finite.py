"""A step with NaN changes nothing, is named, and its batch is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from callbacks.tiny import TinyData, TinyMethod
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from lgrep.callbacks import non_finite
from lgrep.callbacks.leaving_out import Snapshot, leave_out_step
from lgrep.callbacks.non_finite import NonFiniteGuard
from lgrep.cli import run as run_program
from lgrep.data.batch import Batch
from lgrep.errors import LgrepError
from lgrep.methods.base import Method
from lgrep.training.fit import train
from training.ranks import quick, train_on_rank
from training.runs import assert_equal, only_run, overrides, run, state

BAD = 4
# queue, BatchNorm statistics, probe and optimiser state must all survive
NNCLR = ("method=nnclr", "method.predictor_dims=[16,8]", "method.queue_size=16", "duration.steps=8")


def arguments(root: Path, *more: str) -> list[str]:
    return quick(overrides(root / "data", root / "runs", *NNCLR, *more))


def spoil(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Method, Batch], None], steps: tuple[int, ...] = (BAD,)
) -> None:
    """`change` acts on the pictures as the method gets them in some steps."""
    step = Method.training_step

    def spoilt(self: Method, batch: Batch, batch_idx: int) -> Any:
        if self.global_step in steps:
            change(self, batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Method, "training_step", spoilt)


def nan_picture(_: Method, batch: Batch) -> None:
    batch.views[0][1, 0, 3, 3] = torch.nan


def leave_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference: everything is copied before the step and put back after the update, before teachers move."""
    step = Method.optimizer_step

    def taken_back(self: Method, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        if self.global_step != BAD:
            step(self, epoch, batch_idx, optimizer, closure)
            return
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.optimizer.state.items()}
        pl.LightningModule.optimizer_step(self, epoch, batch_idx, optimizer, closure)
        self.load_state_dict(weights)
        for parameter, values in optimizer.optimizer.state.items():
            for key, value in values.items():
                value.copy_(moments[parameter][key])
        self.after_step()

    monkeypatch.setattr(Method, "optimizer_step", taken_back)


@pytest.mark.parametrize("method", [NNCLR, ("method=byol", "method.predictor_dims=[16,8]", "duration.steps=8")])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_skipping_equals_a_run_without_that_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: tuple[str, ...], optimizer: str
) -> None:
    root = tmp_path / "data"
    more = (*method, f"optimizer.name={optimizer}", "trainer.non_finite=skip")
    with monkeypatch.context() as patch:
        leave_out_by_hand(patch)
        run(quick(overrides(root, tmp_path / "reference", *more)))
    with monkeypatch.context() as patch:
        spoil(patch, nan_picture)
        summary = run(quick(overrides(root, tmp_path / "skipping", *more)))
    assert summary["skipped_steps"] == [BAD]
    reference, skipping = (state(tmp_path / name) for name in ("reference", "skipping"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(skipping[key], reference[key], key)


def test_the_first_step_of_sgd_and_a_gradient_that_overflows() -> None:
    """torch leaves a skipped first momentum buffer uninitialised; a finite loss may have infinite gradients."""
    for make in (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
        lambda p: torch.optim.AdamW(p, 0.1, fused=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
        lambda p: torch.optim.RMSprop(p, 0.1),
    ):
        results = []
        for flags in ([True, False, False], [False, False]):
            layer = nn.Linear(3, 2)
            with torch.no_grad():
                layer.weight.fill_(1.0)
                layer.bias.fill_(1.0)
            optimizer = make(layer.parameters())
            for flag in flags:
                layer.zero_grad()
                (layer(torch.ones(1, 3)).square().sum() * (torch.inf if flag else 1.0)).backward()
                leave_out_step(optimizer, torch.tensor(flag))
                optimizer.step()
            results.append(torch.cat([layer.weight.detach().flatten(), layer.bias.detach()]))
        assert torch.equal(*results) and results[0].isfinite().all()


def test_the_batch_is_kept_and_stopping_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Tensor] = []

    def change(method: Method, batch: Batch) -> None:
        nan_picture(method, batch)
        seen.extend(view.clone() for view in batch.views)

    with monkeypatch.context() as patch:
        spoil(patch, change)
        assert run_program("train", "", train, arguments(tmp_path)) == 1
    printed = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("note: ")]
    assert (
        len(printed) == 1
        and printed[0].startswith(f"error: step {BAD}: loss nan")
        and "optimizer.base_lr" in printed[0]
    )
    folder = only_run(tmp_path / "runs")
    content = torch.load(folder / "non_finite" / f"step-{BAD:08d}.rank0.pt", weights_only=True)
    assert content["step"] == BAD and content["loss"] != content["loss"]
    (batch,) = content["batches"]
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(batch["views"], seen, strict=True))
    assert batch["keys"].shape == (2, 5) and batch["row"].shape == (2, 5) and isinstance(batch["params"][0], dict)
    # the same folder goes on with the other policy
    spoil(monkeypatch, change)
    summary = run(arguments(tmp_path, "trainer.non_finite=skip"))
    assert summary["finished"] and Path(summary["run_dir"]) == folder and summary["skipped_steps"] == [BAD]
    assert all(value.isfinite().all() for value in state(tmp_path / "runs")["state_dict"].values())


def test_a_late_host_decides_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: the flag is read a step late; also when the last step is the bad one."""
    spoil(monkeypatch, nan_picture, steps=(BAD, 7))
    at_once = run(arguments(tmp_path, "trainer.non_finite=skip", "name=a"))
    weights = state(tmp_path / "runs")["state_dict"]
    monkeypatch.setattr(
        non_finite.Finding, "immediate", property(lambda self: False, lambda self, value: None), raising=False
    )
    late = run([*arguments(tmp_path, "trainer.non_finite=skip", "name=b"), f"paths.runs={tmp_path / 'late'}"])
    assert at_once["skipped_steps"] == late["skipped_steps"] == [BAD, 7]
    assert_equal(state(tmp_path / "late")["state_dict"], weights)


def test_too_many_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_finite, "PATIENCE", 3)
    spoil(monkeypatch, nan_picture, steps=(1, 3, 4, 5, 6))
    with pytest.raises(LgrepError, match=r"step 5: .* like those of the 2 steps before"):
        run(arguments(tmp_path, "trainer.non_finite=skip"))


def test_ignoring_does_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nan_picture)
    assert run(arguments(tmp_path, "trainer.non_finite=ignore"))["skipped_steps"] == []
    assert not state(tmp_path / "runs")["state_dict"]["backbone.bn1.weight"].isfinite().all()


class Half(TinyMethod):
    """Fused AdamW, float16 by a gradient scaler; one batch has NaN."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.after.append((float(self.head.weight.sum()), self.trainer.precision_plugin.scaler.get_scale()))  # type: ignore[union-attr]


def half_precision(folder: Path, steps: int, scale: float, saved: Path | None = None) -> tuple[Half, NonFiniteGuard]:
    method, data, guard = Half(), TinyData(), NonFiniteGuard(str(folder), "skip")
    method.after = []
    if saved is None:
        make = data.batch
        data.batch = lambda index: replace(
            make(index), views=[v * (torch.nan if index == 2 else 1) for v in make(index).views]
        )  # type: ignore[method-assign]
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
    trainer = pl.Trainer(
        max_steps=steps, callbacks=[guard], plugins=[plugin], accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, data, ckpt_path=saved, weights_only=True)
    trainer.save_checkpoint(folder / "saved.ckpt")
    return method, guard


def test_a_gradient_scaler_overflows_by_design_and_survives_a_resume(tmp_path: Path) -> None:
    method, guard = half_precision(tmp_path, 4, 256.0)
    weights, scales = zip(*method.after, strict=True)
    assert guard.skipped == [2] and weights[2] == weights[1] != weights[3] and scales == (256.0, 256.0, 128.0, 128.0)
    resumed, _ = half_precision(tmp_path, 5, 7.0, tmp_path / "saved.ckpt")
    assert [scale for _, scale in resumed.after] == [128.0]
    method, guard = half_precision(tmp_path / "overflow", 2, 2.0**40)
    weights, scales = zip(*method.after, strict=True)
    assert guard.skipped == [] and weights[0] == weights[1] and scales == (2.0**39, 2.0**38)


def spoilt_on_second(rank: int, given: list[str]) -> Any:
    """Only the second process has a bad picture."""
    step = Method.training_step

    def spoilt(self: Method, batch: Batch, batch_idx: int) -> Any:
        if self.global_step == BAD and rank == 1:
            nan_picture(self, batch)
        return step(self, batch, batch_idx)

    Method.training_step = spoilt  # type: ignore[method-assign]
    try:
        return train_on_rank(rank, 2, given)
    finally:
        Method.training_step = step  # type: ignore[method-assign]


@pytest.mark.ddp
def test_all_processes_leave_out_the_same_step(tmp_path: Path, run_processes: Callable[..., list[Any]]) -> None:
    more = ("trainer.non_finite=skip", "trainer.devices=2", "trainer.sync_batchnorm=false")
    summaries = run_processes(spoilt_on_second, 2, arguments(tmp_path, *more))
    assert [summary["skipped_steps"] for summary in summaries] == [[BAD], [BAD]]
    folder = only_run(tmp_path / "runs") / "non_finite"
    assert len(list(folder.iterdir())) == 2
    assert all(value.isfinite().all() for value in state(tmp_path / "runs")["state_dict"].values())


def test_only_changed_buffers_come_back() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    module.register_buffer("rebound", torch.zeros(2))
    snapshot = Snapshot()
    for flag in (True, False, True):
        snapshot.take(module)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        module(torch.randn(4, 2))
        module.rebound = module.rebound + 1
        snapshot.restore(torch.tensor(flag))
        for name, value in module.named_buffers():
            assert torch.equal(value, before[name]) == flag, name
