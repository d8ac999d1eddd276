"""What every method shares: the backbone, the optimiser, logging and the order of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.errors import ConfigError, LgrepError
from lgrep.losses.gather import row_offset
from lgrep.methods.language.base import LanguageObjective
from lgrep.methods.modules.chunks import encode_in_chunks
from lgrep.methods.modules.heads import MLPHead
from lgrep.methods.modules.sharding import apart, gather_backbones, shard
from lgrep.methods.modules.steps import Means, mean_over_processes, step_seed
from lgrep.optim import Optimisation, clip_gradients, parameter_groups


@dataclass
class StepOutput:
    """What `training_loss` gives back.

    Attributes:
        loss: scalar to minimise.
        features: backbone features [V * B, D], view-major.
        embeddings: head outputs [V * B, E], view-major.
        parts: named scalars to log beside the loss.
    """

    loss: Tensor
    features: Tensor
    embeddings: Tensor
    parts: dict[str, Tensor]


class Method(pl.LightningModule):
    """A training objective around a backbone.

    A method is one subclass: heads in `__init__`, the objective in `training_loss`. The arguments of
    `__init__` other than `backbone` are its configuration schema.

    Order of side effects in a step, which subclasses may rely on:

    1. torch is seeded from (seed, batch, rank), so that a resumed run draws the same numbers;
    2. `before_step()`: changes of parameters that this step's loss is to see (teachers that move first, prototypes);
    3. `training_loss(batch)` (queues, memories and centers are updated inside it) and backward; with
       `trainer.accumulate` 1 and 3 are repeated for each micro-batch;
    4. gradient all-reduce, optimiser step, learning-rate step;
    5. `after_step()` of the method (teachers that follow the updated weights), then of its language objective
       (its teacher, then the clamp of the logit scales);
    6. callbacks, with detached features and embeddings.

    Attributes:
        exact_views: number of views that the objective is defined for; None: any from `min_views` on.
        min_views: fewest views.
        min_anchors: fewest anchors of a global batch.
        needs_text: whether batches must carry captions.
        uses_relations: whether the objective reads `Batch.positives` and `Batch.ignore` (neighbours in the batch).
        needs_labels: whether pictures must have classes; the constructor then gets their number, `num_classes`.
        compares_pictures: whether the loss relates pictures of a batch to each other, so that its size matters.
        calls_backbone: whether pictures pass `backbone(...)` as a whole; False: its parts are called by themselves.
    """

    exact_views: ClassVar[int | None] = None
    min_views: ClassVar[int] = 1
    min_anchors: ClassVar[int] = 2
    needs_text: ClassVar[bool] = False
    uses_relations: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    compares_pictures: bool = True
    calls_backbone: ClassVar[bool] = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.optimisation: Optimisation | None = None
        self.language: LanguageObjective | None = None
        self.seed = 0
        self.check_finite = False  # waits for the device in every step: debug=true turns it on
        self.image: dict[str, Any] = {}
        self.budget_per_step: dict[str, int] = {}
        self._logged = Means()

    def training_loss(self, batch: Batch) -> StepOutput:
        """The objective on one batch of normalised views."""
        raise NotImplementedError

    def before_step(self) -> None:
        """Side effects on parameters that precede the loss, once per optimiser step."""

    def after_step(self) -> None:
        """Side effects that follow the optimiser step."""

    def resting(self) -> Sequence[Tensor]:
        """Parameters that this step's optimiser leaves as they are, although the loss reaches them."""
        return ()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for parameter in self.resting():
            parameter.grad = None
        if self.optimisation is not None:
            self.optimisation.set_weight_decay(optimizer, self.steps_done)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm of all gradients, those of divided parameters too, which Lightning's own way refuses."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradient_clip_val is not None and gradients:
            clip_gradients(gradients, gradient_clip_val)

    @property
    def progress(self) -> float:
        """Share of the run's optimiser steps that are done, 0 to 1; 0 outside a run."""
        total = self.optimisation.total_steps if self.optimisation is not None else 0
        return min(1.0, self.steps_done / total) if total else 0.0

    @property
    def steps_done(self) -> int:
        """Optimiser steps done so far; 0 outside a run."""
        return int(self.global_step) if self._trainer is not None else 0

    def encode(self, batch: Batch, backbone: nn.Module | None = None) -> Tensor:
        """Features [V * B, D] of all views, view-major; one backbone pass per resolution, or piece by piece.

        Args:
            batch: some views are encoded by `batch.select(views)`.
            backbone: another one than the method's, such as a teacher's.
        """
        backbone = self.backbone if backbone is None else backbone
        if batch.chunk:
            return encode_in_chunks(backbone, batch)
        by_size = views_by_size(batch)
        if len(by_size) == 1:
            features: Tensor = backbone(torch.cat(batch.views))
            return features
        chunks: dict[int, Tensor] = {}
        for views in by_size.values():
            features = backbone(torch.cat([batch.views[v] for v in views]))
            chunks.update(zip(views, features.chunk(len(views)), strict=True))
        return torch.cat([chunks[v] for v in range(batch.num_views)])

    def objective(self, batch: Batch) -> StepOutput:
        """The method's own loss and that of its language objective, if it has one; features of all views."""
        if self.language is None:
            return self.training_loss(batch)
        views = range(batch.num_views)
        shown = list(views if self.language.image_views is None else self.language.image_views)
        output = self.training_loss(batch.select(shown))
        features = dict(zip(shown, output.features.chunk(len(shown)), strict=True))
        others = [v for v in views if v not in shown]
        if others:
            features.update(zip(others, self.encode(batch.select(others)).chunk(len(others)), strict=True))
        sources = features
        if self.language.source == "embeddings":
            sources = dict(zip(shown, output.embeddings.chunk(len(shown)), strict=True))
        matched = list(views if self.language.views is None else self.language.views)
        loss, parts = self.language([sources[v] for v in matched], batch)
        parts = {"image_loss": output.loss, "language_loss": loss, **output.parts, **parts}
        total = output.loss + self.language.weight * loss
        return StepOutput(total, torch.cat([features[v] for v in views]), output.embeddings, parts)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if not self.calls_backbone:
            gather_backbones(self)
        output = self.objective(batch)
        if self.check_finite:
            check_finite(output, self.global_step)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values = {"loss": output.loss, **output.parts}
            values = {f"train/{name}": mean_over_processes(value) for name, value in values.items()}
            means = self._logged.over(values, self.trainer.accumulate_grad_batches)
            if means is not None:
                self.log_dict(means, batch_size=batch.num_anchors)
                self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=batch.num_anchors)
        return {"loss": output.loss, "features": output.features.detach(), "embeddings": output.embeddings.detach()}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        micro_batches = self.trainer.accumulate_grad_batches
        micro_batch = batch_idx % micro_batches
        number = self.global_step * micro_batches + micro_batch
        torch.manual_seed(step_seed(self.seed, number, self.global_rank))
        if micro_batch == 0:
            self.before_step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after_step()
        if self.language is not None:
            self.language.after_step()

    def configure_model(self) -> None:
        """Divides the parameters among the processes when the strategy has a mesh for that (FSDP2)."""
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            shard(self, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        assert self.optimisation is not None, "build methods with lgrep.training, or set `optimisation`"
        plan = self.optimisation
        optimizer, schedule = plan.build(apart(parameter_groups(self, plan.weight_decay, plan.decay_exclude)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        projector = getattr(self, "projector", None)
        checkpoint["lgrep"] = {
            "backbone": {"name": self.backbone.name, "options": self.backbone.options},
            "image": dict(self.image),
            "method": f"{type(self).__module__}.{type(self).__qualname__}",
            "projector": projector.kinds if isinstance(projector, MLPHead) else None,
            "step": self.global_step,
            "budget": {"steps": self.global_step, **{k: v * self.global_step for k, v in self.budget_per_step.items()}},
        }
        if self.language is not None:
            checkpoint["lgrep"]["language"] = self.language.description(projector)


def check_classes(number: int) -> None:
    """Refuses data without classes.

    Raises:
        ConfigError: fewer than two.
    """
    if number < 2:
        raise ConfigError(
            f"this method learns from classes, and the data have {number}. Type data.labels=folder (data=folder), or "
            "another method such as method=simclr"
        )


def relations_between(
    batch: Batch, rows: int
) -> tuple[tuple[Tensor, Tensor, Tensor] | None, tuple[Tensor, Tensor] | None]:
    """The batch's positives (anchor, other, weight) and ignored pairs, the other side counted over all processes.

    Args:
        batch: its pairs are places among this process's `rows` embeddings.
        rows: embeddings of this process.
    """
    if batch.positives is None and batch.ignore is None:
        return None, None
    offset = row_offset(rows)
    positives = None
    if batch.positives is not None:
        (anchor, other), weight = batch.positives
        positives = (anchor, other + offset, weight)
    return positives, None if batch.ignore is None else (batch.ignore[0], batch.ignore[1] + offset)


def views_by_size(batch: Batch) -> dict[int, list[int]]:
    """Numbers of the views of each resolution, largest resolution first."""
    sizes = sorted({view.shape[-1] for view in batch.views}, reverse=True)
    return {size: [v for v, view in enumerate(batch.views) if view.shape[-1] == size] for size in sizes}


def check_finite(output: StepOutput, step: int) -> None:
    """Refuses NaN and Inf, saying where they began (waits for the device).

    Raises:
        LgrepError: with the first of features, embeddings and loss that is not finite, and its rows.
    """
    for name in ("features", "embeddings", "loss"):
        values: Tensor = getattr(output, name).detach()
        broken = ~values.isfinite()
        if bool(broken.any()):
            rows = broken.flatten(1).any(dim=1).nonzero().flatten().tolist() if values.ndim > 1 else []
            where = f" in {len(rows)} of {len(values)} rows (the first: {rows[0]})" if rows else ""
            raise LgrepError(
                f"step {step}: {name} not finite{where}. Type a smaller optimizer.base_lr, a longer "
                "schedule.warmup_steps, or trainer.precision=32-true"
            )
