"""Online linear probe with an optimiser and a state of its own."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from lgrep.callbacks.features import forget_features, has_probe, probe_features
from lgrep.callbacks.periodic import PeriodicCallback, report
from lgrep.errors import CheckpointError


class LinearProbe:
    """A linear classifier trained on a stream of features, which it standardises by running statistics.

    Starts from zero weights, so it needs no random numbers. On several ranks sums over the global batch
    are reduced: weights and statistics stay identical everywhere.

    Args:
        dim: D, size of the features.
        num_classes: C.
        device: where it lives.
        lr, weight_decay: of its AdamW.
        momentum: weight of a new batch in the running mean and variance (a plain mean until 1 / momentum
            batches were seen).
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        device: torch.device | str = "cpu",
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        momentum: float = 0.1,
    ) -> None:
        self.weight = torch.zeros(num_classes, dim, device=device, requires_grad=True)
        self.bias = torch.zeros(num_classes, device=device, requires_grad=True)
        self.mean = torch.zeros(dim, device=device)
        self.variance = torch.ones(dim, device=device)
        self.momentum = momentum
        self.steps = 0
        groups: list[dict[str, Any]] = [{"params": [self.weight]}, {"params": [self.bias], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)

    def logits(self, features: Tensor) -> Tensor:
        """Class scores [N, C] of features [N, D]."""
        return F.linear((features.float() - self.mean) / (self.variance + 1e-6).sqrt(), self.weight, self.bias)

    def train_step(self, features: Tensor, labels: Tensor) -> None:
        """One optimiser step on features [N, D] and labels Long [N]; label -1 only enters the statistics.

        A row that is not finite teaches nothing.
        """
        features = features.detach().float()
        finite = features.isfinite().all(dim=1)
        features, labels = torch.where(finite[:, None], features, self.mean), labels.where(finite, -1)
        self._update_statistics(features)
        with torch.enable_grad():
            loss = F.cross_entropy(self.logits(features), labels, ignore_index=-1, reduction="sum")
            gradients = torch.autograd.grad(loss, [self.weight, self.bias])
        count = (labels >= 0).sum().to(loss.dtype)
        weight, bias, count = _sum_over_ranks(*gradients, count)
        self.weight.grad, self.bias.grad = weight / count.clamp_min(1), bias / count.clamp_min(1)
        self.optimizer.step()
        self.steps += 1

    def _update_statistics(self, features: Tensor) -> None:
        # sums are taken around the running mean: no cancellation, and one reduction is enough
        centred = features - self.mean
        count = torch.full((), len(features), dtype=torch.float32, device=features.device)
        first, second, count = _sum_over_ranks(centred.sum(dim=0), centred.square().sum(dim=0), count)
        shift = first / count
        share = max(self.momentum, 1.0 / (self.steps + 1))
        self.variance.lerp_((second / count - shift.square()).clamp_min(0), share)
        self.mean.add_(shift, alpha=share)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types only."""
        tensors = {name: getattr(self, name).detach().clone() for name in ("weight", "bias", "mean", "variance")}
        return {**tensors, "steps": self.steps, "optimizer": self.optimizer.state_dict()["state"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the learning rate and weight decay stay those of this probe."""
        if state["weight"].shape != self.weight.shape:
            got, here = (f"{tuple(shape)}" for shape in (state["weight"].shape, self.weight.shape))
            raise CheckpointError(
                f"the linear probe in the checkpoint has weights {got} (classes, features), this run needs {here}: "
                "resume with the data and backbone of the checkpoint, or remove the probe (~callbacks.linear_probe)"
            )
        with torch.no_grad():
            for name in ("weight", "bias", "mean", "variance"):
                getattr(self, name).copy_(state[name])
        self.steps = int(state["steps"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})


class OnlineLinearProbe(PeriodicCallback):
    """Trains a linear classifier beside the run and logs `probe/linear_top1`, its accuracy on the probe queries.

    It sees the detached features of every training batch (all views, labelled pictures only) and never
    influences the backbone. Its whole state travels in the checkpoint. Does nothing on unlabelled data.

    Args:
        every_n_steps: distance between evaluations in optimiser steps; the last step is always evaluated.
        lr: learning rate of its AdamW, constant.
        weight_decay: of the weights, not of the biases.
        momentum: weight of a new batch in the running mean and variance that standardise the features.
    """

    def __init__(
        self,
        every_n_steps: PositiveInt = 100,
        lr: PositiveFloat = 5e-3,
        weight_decay: NonNegativeFloat = 1e-2,
        momentum: PositiveFloat = 0.1,
    ) -> None:
        super().__init__(every_n_steps)
        self.lr = lr
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.probe: LinearProbe | None = None
        self._loaded: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        forget_features(trainer)
        classes = getattr(getattr(trainer, "datamodule", None), "num_classes", 0)
        if not has_probe(trainer) or classes < 1:
            return
        dim: int = pl_module.backbone.dim  # type: ignore[assignment]
        self.probe = LinearProbe(dim, classes, pl_module.device, self.lr, self.weight_decay, self.momentum)
        if self._loaded:
            self.probe.load_state_dict(self._loaded)
            self._loaded = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.probe is not None:
            self.probe.train_step(outputs["features"], batch.label.flatten())
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def act(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        if self.probe is None:
            return
        features = probe_features(trainer, module, "queries")
        labels = trainer.datamodule.probe.query_labels.to(features.device)  # type: ignore[attr-defined]
        with torch.no_grad():
            correct = self.probe.logits(features).argmax(dim=1) == labels
        report(trainer, module, {"probe/linear_top1": correct.float().mean()})

    def state_dict(self) -> dict[str, Any]:
        return self._loaded if self.probe is None else self.probe.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # the device and the sizes are known only when training starts
        self._loaded = state_dict


def _sum_over_ranks(*tensors: Tensor) -> list[Tensor]:
    """Sums of float tensors over all ranks, in one reduction."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
