"""Steps with NaN or Inf: nothing of them stays, and the host does not wait to find out."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lgrep.callbacks.leaving_out import Snapshot, leave_out_step
from lgrep.callbacks.periodic import say
from lgrep.data.batch import Batch, Shipped
from lgrep.errors import LgrepError
from lgrep.losses.gather import world
from lgrep.optim import gradient_norm

KEPT = 10  # steps whose batch is saved; later ones are only named
PATIENCE = 100  # steps in a row that may be left out
ADVICE = "Type a smaller optimizer.base_lr, a longer schedule.warmup_steps, or trainer.precision=32-true"


class NonFiniteGuard(pl.Callback):
    """Leaves out steps whose loss or gradient is not finite.

    Parameters, optimiser state and saved buffers (statistics of BatchNorm, queues, memories, centers) stay as they were
    before the step; learning rate and teachers go on. That is decided on the device; all processes decide alike. The host
    reads the decision one step late on an accelerator, at once on a CPU, and then names the step and saves its batch as
    `non_finite/step-<n>.rank<r>.pt`: tensors and plain types, for `torch.load(..., weights_only=True)`.

    With a gradient scaler (`16-mixed`) only the loss counts: scaled gradients overflow now and then by design, and the
    scaler itself leaves those steps out.

    Args:
        run_dir: folder of the run.
        policy: `stop` ends the run with an error, `skip` goes on (for at most 100 steps in a row).

    Attributes:
        skipped: numbers of the steps that were left out, the first step being 0.
    """

    def __init__(self, run_dir: str, policy: Literal["stop", "skip"] = "stop") -> None:
        self.folder = Path(run_dir) / "non_finite"
        self.policy = policy
        self.skipped: list[int] = []
        self._before = Snapshot()
        self._batches: list[Batch] = []
        self._loss: Tensor | None = None  # the mean over the micro-batches so far
        self._finite: Tensor | None = None
        self._agreement: Any = None
        self._decision: tuple[Tensor, Tensor] | None = None
        self._late: Finding | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._before.take(pl_module)
            self._batches, self._loss, self._finite = [], None, None
        # on an accelerator the pictures of several micro-batches would take the memory that accumulation saves
        whole = trainer.accumulate_grad_batches == 1 or pl_module.device.type == "cpu"
        self._batches.append(batch if whole else replace(batch, views=[], params=[]))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        finite = loss.detach().isfinite().float()
        self._finite = finite if self._finite is None else finite * self._finite
        if world()[1] > 1 and len(self._batches) == trainer.accumulate_grad_batches:
            # it travels while the gradients are computed
            self._agreement = dist.all_reduce(self._finite, dist.ReduceOp.MIN, async_op=True)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        assert self._finite is not None
        if self._agreement is not None:
            self._agreement.wait()
            self._agreement = None
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm, bad = gradient_norm(gradients), self._finite == 0
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            bad = bad | ~norm.isfinite()
            leave_out_step(optimizer, bad)
        else:  # the scaler looks at gradients only
            torch._foreach_mul_(gradients, torch.where(bad, torch.nan, 1.0).to(gradients[0].dtype))
        self._before.restore(bad)
        self._decision = (bad, norm)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        self._loss = loss if self._loss is None else self._loss + loss
        if self._decision is None:  # not the last micro-batch
            return
        bad, norm = self._decision
        values = torch.stack([bad.double(), self._loss.double(), norm.double()])
        finding = Finding(trainer.global_step - 1, values, self._batches)
        self._decision = None
        due, self._late = (finding, None) if finding.immediate else (self._late, finding)
        self._judge(trainer, due)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        finding, self._late = self._late, None
        self._judge(trainer, finding)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        finding, self._late = self._late, None
        self._judge(trainer, finding)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": list(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = list(state_dict["skipped"])

    def _judge(self, trainer: pl.Trainer, finding: Finding | None) -> None:
        bad, loss, norm = (False, 0.0, 0.0) if finding is None else finding.read()
        if finding is None or not bad:
            return
        step = finding.step
        self.skipped.append(step)
        what = f"step {step}: loss {loss:g}, gradient norm {norm:g}; its update was left out"
        if len(self.skipped) <= KEPT:
            path = self.folder / f"step-{step:08d}.rank{trainer.global_rank}.pt"
            what += f", its batch is {_save(path, finding.batches, step=step, loss=loss, gradient_norm=norm)}"
        if self.policy == "stop":
            raise LgrepError(f"{what}. {ADVICE}; trainer.non_finite=skip goes on from the last checkpoint")
        if self.skipped[-PATIENCE:] == list(range(step - PATIENCE + 1, step + 1)):
            raise LgrepError(f"{what}, like those of the {PATIENCE - 1} steps before. {ADVICE}")
        if trainer.is_global_zero:
            say(trainer, f"{what} ({len(self.skipped)} so far)")


class Finding:
    """Flag, loss and gradient norm of a step on their way to the host.

    Args:
        step: number of the step.
        values: [3] on the training device.
        batches: what the step saw.
    """

    def __init__(self, step: int, values: Tensor, batches: list[Batch]) -> None:
        self.step, self.batches = step, batches
        self.immediate = values.device.type == "cpu"
        self._values, self._event = values, None
        if values.device.type != "cpu":
            self._values = torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.Event(values.device)
            self._event.record()

    def read(self) -> tuple[bool, float, float]:
        """The three values; they arrived long ago when a step has passed."""
        if self._event is not None:
            self._event.synchronize()
        bad, loss, norm = self._values.tolist()
        return bool(bad), loss, norm


def _save(path: Path, batches: list[Batch], **facts: float) -> str:
    """Write batches as tensors and plain types; says where, or why not."""
    content = {
        **facts,
        "batches": [{field.name: _plain(getattr(b, field.name)) for field in fields(b)} for b in batches],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
    except (OSError, RuntimeError) as error:
        return f"not saved ({str(error).splitlines()[0]})"
    return f"in {path}"


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Shipped):
        return {name: tensor.detach().cpu() for name, tensor in value.tensors.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (int, float, str, type(None))) else None
