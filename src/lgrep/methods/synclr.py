"""SynCLR: all crops of a caption's pictures match a teacher's keys, and masked patches its tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.errors import ConfigError
from lgrep.losses import masked_token, multi_positive_query_key, sinkhorn
from lgrep.methods.base import Method, StepOutput, views_by_size
from lgrep.methods.modules.heads import MLPHead
from lgrep.methods.modules.masking import random_order
from lgrep.methods.modules.multi_crop import in_batch_order
from lgrep.methods.modules.prototypes import DinoHead
from lgrep.methods.modules.teacher import Teacher, cosine_momentum, warmed_up
from lgrep.methods.modules.tokens import encode_tokens

Share = Annotated[float, Field(ge=0, le=1)]


class SynCLR(Method):
    """SynCLR (Tian et al., arXiv 2312.17742, section 3.3); views of the largest size are the teacher's.

    The loss is L(global) + mean of L(local) + iBOT's, each with its weight.

    Args:
        backbone: image encoder; one of timm's ViTs unless `masked_weight` is 0.
        temperature: of the contrast.
        projector_dims, predictor_dims: widths of the heads.
        norm: of the heads: `layer` with GELU and biases, `batch` with ReLU and none.
        contrast_weight, masked_weight: of the two parts.
        mask_share: share of the global views that are masked, from the first on (pictures come in random order).
        mask_ratio: share of their patches.
        prototypes, hidden_dim, bottleneck_dim: of iBOT's head.
        student_temperature, teacher_temperature: of its distributions, the teacher's after its warm-up.
        warmup_teacher_temperature: at the start.
        warmup_share: share of the run over which it rises linearly (published: 4,000 of 500,000 steps).
        momentum: of the teacher at the start; it rises to 1 along a cosine.
    """

    min_views = 2
    calls_backbone = False

    def __init__(
        self,
        backbone: Backbone,
        temperature: PositiveFloat = 0.08,
        projector_dims: tuple[PositiveInt, ...] = (4096, 4096, 256),
        predictor_dims: tuple[PositiveInt, ...] = (4096, 256),
        norm: Literal["layer", "batch"] = "layer",
        contrast_weight: NonNegativeFloat = 1.0,
        masked_weight: NonNegativeFloat = 1.0,
        mask_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        prototypes: PositiveInt = 65536,
        hidden_dim: PositiveInt = 2048,
        bottleneck_dim: PositiveInt = 256,
        student_temperature: PositiveFloat = 0.1,
        teacher_temperature: PositiveFloat = 0.07,
        warmup_teacher_temperature: PositiveFloat = 0.04,
        warmup_share: Share = 0.008,
        momentum: Share = 0.994,
    ) -> None:
        super().__init__(backbone)
        self.temperature, self.student_temperature, self.momentum = temperature, student_temperature, momentum
        self.temperatures = (warmup_teacher_temperature, teacher_temperature, warmup_share)
        self.contrast_weight, self.masked_weight = contrast_weight, masked_weight
        self.mask_share, self.mask_ratio = mask_share, mask_ratio
        style: dict[str, Any] = {"norm": norm, "last_norm": True, "last_affine": False, "init_std": 0.02}
        style |= {"bias": norm == "layer", "last_bias": False, "activation": "gelu" if norm == "layer" else "relu"}
        self.projector = MLPHead(backbone.dim, projector_dims, **style)
        self.predictor = MLPHead(self.projector.out_dim, predictor_dims, **style)
        parts: dict[str, nn.Module] = {"backbone": self.backbone, "projector": self.projector}
        if masked_weight:
            if not hasattr(backbone, "patch_embed"):
                raise ConfigError(
                    f"SynCLR masks patches of timm's ViTs, not of {backbone.name}. Type backbone=vit_small, or "
                    "method.masked_weight=0"
                )
            width: int = backbone.embed_dim  # type: ignore[assignment]
            self.mask_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
            self.head = DinoHead(width, prototypes, hidden_dim, bottleneck_dim, learn_gain=True)
            parts["head"] = self.head
        self.teacher = Teacher(**parts)

    def training_loss(self, batch: Batch) -> StepOutput:
        large = next(iter(views_by_size(batch).values()))
        order = large + [v for v in range(batch.num_views) if v not in large]
        batch, crops = batch.select(order), batch.select(order[: len(large)])
        rows = len(large) * batch.num_anchors
        mask = self._mask(crops)
        features, tokens = self._encoded(crops, self.backbone, mask)
        with torch.no_grad():
            seen, seen_tokens = self._encoded(crops, self.teacher["backbone"], None)
            keys = self.teacher["projector"](seen)
        predictions = self.predictor(self.projector(features))
        labels = batch.group.flatten()
        contrast = multi_positive_query_key(
            predictions, keys, labels[:rows], labels[:rows], self.temperature, skip_own=True
        )
        if batch.num_views > len(large):
            small = self.encode(batch.select(range(len(large), batch.num_views)))
            local = self.predictor(self.projector(small))
            contrast = contrast + multi_positive_query_key(local, keys, labels[rows:], labels[:rows], self.temperature)
            features, predictions = torch.cat([features, small]), torch.cat([predictions, local])
        loss, parts = self.contrast_weight * contrast, {"contrast": contrast}
        if mask is not None:
            parts["masked"] = self._masked_loss(tokens, seen_tokens, mask, len(large))
            loss = loss + self.masked_weight * parts["masked"]
        return StepOutput(loss, in_batch_order(features, order), in_batch_order(predictions, order), parts)

    def after_step(self) -> None:
        momentum = cosine_momentum(self.momentum, self.progress)
        parts = {name: getattr(self, name) for name in self.teacher.parts}
        self.teacher.follow(momentum, **parts)

    def _encoded(self, batch: Batch, backbone: nn.Module, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features [V * B, D] and patch tokens [V * B, L, D] (none without a masked loss)."""
        if not self.masked_weight:
            features = self.encode(batch, backbone)
            return features, features.new_empty(0)
        return encode_tokens(backbone, torch.cat(batch.views), self.mask_token if mask is not None else None, mask)

    def _mask(self, crops: Batch) -> Tensor | None:
        """Bool [V * B, L]: the masked patches; the same for an anchor on any number of processes."""
        if not self.masked_weight:
            return None
        assert crops.keys is not None
        side: int = crops.views[0].shape[-1] // self.backbone.patch_embed.patch_size[0]  # type: ignore
        masked = self._masked_views(crops.num_views)
        orders = [random_order(self.seed, crops.keys, view, side**2) for view in range(masked)]
        mask = torch.cat(orders) < self._masked_patches(side**2)
        return torch.cat([mask, mask.new_zeros(crops.num_anchors * (crops.num_views - masked), side**2)])

    def _masked_views(self, views: int) -> int:
        return max(1, round(self.mask_share * views))

    def _masked_patches(self, patches: int) -> int:
        return max(1, round(self.mask_ratio * patches))

    def _masked_loss(self, tokens: Tensor, seen: Tensor, mask: Tensor, views: int) -> Tensor:
        """Cross-entropy with the teacher's tokens (iBOT); as many patches are masked in each masked view, so no device is waited for."""
        rows = len(mask) // views * self._masked_views(views)
        count = self._masked_patches(mask.shape[1])
        place = mask[:rows].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count, None]
        place = place.expand(-1, -1, tokens.shape[2])
        scores = self.head(tokens[:rows].gather(1, place).flatten(0, 1))
        with torch.no_grad():
            theirs = self.teacher["head"](seen[:rows].gather(1, place).flatten(0, 1))
            targets = sinkhorn(theirs, epsilon=warmed_up(*self.temperatures, self.progress))
        weights = torch.full((len(scores),), 1 / count, device=scores.device, dtype=scores.dtype)
        return masked_token(scores, targets, mask, weights, self.student_temperature)
