"""Image-text objectives without negatives, beside CLIP-rocket's own (Fini et al., arXiv 2305.08675)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lgrep.data.batch import Batch
from lgrep.errors import ConfigError
from lgrep.losses import barlow_twins, negative_cosine, swalip
from lgrep.losses.gather import Gradients
from lgrep.methods.modules.heads import MLPHead
from lgrep.methods.modules.teacher import Teacher


class CrossObjective(nn.Module):
    """A loss between the features of pictures and texts; view 0 of both is weak, the others are strong."""

    def attach(self, backbone: nn.Module, tower: nn.Module | None) -> None:
        """Called once, when the whole model is built."""

    def forward(
        self,
        images: Sequence[Tensor],
        texts: Sequence[Tensor],
        strong_images: Sequence[Tensor],
        strong_texts: Sequence[Tensor],
        strong_scale: Tensor,
        batch: Batch,
    ) -> Tensor:
        """The loss.

        Args:
            images, texts: features [B, D] of each view.
            strong_images, strong_texts: embeddings [B, E] of the strong views.
            strong_scale: multiplier of their cosines.
            batch: where the features come from.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Side effects that follow the optimiser step."""


class BarLIP(CrossObjective):
    """Barlow Twins between pictures and texts: the mean of the weak pair and all strong pairs.

    Args:
        image_dim, text_dim: of the features.
        hidden_dim, out_dim: widths of the projectors.
        separate: projectors of their own for strong views.
        off_diagonal_weight, scale: see `barlow_twins`.
        gather_gradients: `none` also gives the published gradient, 1 / W of the exact one.
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        hidden_dim: int = 3000,
        out_dim: int = 8192,
        separate: bool = False,
        off_diagonal_weight: float = 5e-3,
        scale: float = 0.025,
        gather_gradients: Gradients = "exact",
    ) -> None:
        super().__init__()
        self.weights = (off_diagonal_weight, scale)
        self.gradient: Literal["exact", "local"] = "local" if gather_gradients == "none" else "exact"
        dims = (hidden_dim, hidden_dim, out_dim)
        self.heads = _heads(separate, lambda: _pair(image_dim, text_dim, dims, last_norm=True))

    def forward(self, images, texts, strong_images, strong_texts, strong_scale, batch):  # type: ignore[no-untyped-def]
        losses = [
            barlow_twins(head["image"](image), head["text"](text), *self.weights, self.gradient)
            for head, image, text in _pairs(self.heads, images, texts)
        ]
        return torch.stack(losses).mean()


class SiamLIP(CrossObjective):
    """SimSiam between pictures and texts; with `momentum` the targets are a teacher's (BYOLIP).

    Args:
        image_dim, text_dim: of the features.
        hidden_dim, out_dim: widths of projectors and predictors.
        separate: projectors and predictors of their own for strong views.
        momentum: of the teacher, constant; None: stopped gradients of the own projections.
        gather_gradients: has no effect, as nothing is gathered.
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        separate: bool = False,
        momentum: float | None = None,
        gather_gradients: Gradients = "exact",
    ) -> None:
        super().__init__()
        self.momentum = momentum
        plain = {"bias": False, "last_norm": True, "last_affine": False}
        self.heads = _heads(separate, lambda: _pair(image_dim, text_dim, (hidden_dim, out_dim), **plain))
        self.predictors = _heads(separate, lambda: nn.ModuleDict({k: Predictor(out_dim, hidden_dim) for k in _KINDS}))
        self.teacher: Teacher | None = None
        self._student: dict[str, nn.Module] = {}

    def attach(self, backbone: nn.Module, tower: nn.Module | None) -> None:
        if self.momentum is None:
            return
        if tower is None:
            raise ConfigError("BYOLIP's teacher needs a text tower. Type language.tower.name=clip")
        self._student = {"backbone": backbone, "tower": tower, "heads": self.heads}
        self.teacher = Teacher(**self._student)

    def forward(self, images, texts, strong_images, strong_texts, strong_scale, batch):  # type: ignore[no-untyped-def]
        image_targets, text_targets = self._targets(images, texts, batch)
        total, count = images[0].new_zeros(()), 0
        for number, (i, j) in enumerate(_indices(len(images))):
            level = min(number, 1) if len(self.heads) > 1 else 0
            heads: Any = self.heads[level]
            predictors: Any = self.predictors[level]
            total = total + negative_cosine(predictors["image"](heads["image"](images[i])), text_targets[j])
            total = total + negative_cosine(predictors["text"](heads["text"](texts[j])), image_targets[i])
            count += 2
        return total / count

    @torch.no_grad()
    def _targets(self, images: Sequence[Tensor], texts: Sequence[Tensor], batch: Batch) -> tuple[list[Any], list[Any]]:
        heads: Any = self.heads
        if self.teacher is not None:
            assert batch.text is not None
            heads = self.teacher["heads"]
            images = [self.teacher["backbone"](batch.whole(view)) for view in range(len(images))]
            texts = [self.teacher["tower"](tokens, number > 0) for number, tokens in enumerate(batch.text)]
        level = [heads[min(number, len(heads) - 1)] for number in range(len(images))]
        return (
            [head["image"](image) for head, image in zip(level, images, strict=True)],
            [head["text"](text) for head, text in zip(level, texts, strict=True)],
        )

    def after_step(self) -> None:
        if self.teacher is not None:
            assert self.momentum is not None
            self.teacher.follow(self.momentum, **self._student)


class BYOLIP(SiamLIP):
    """SiamLIP with a momentum teacher of the whole model; arguments as there."""

    def __init__(self, image_dim: int, text_dim: int, momentum: float | None = 0.99, **options: Any) -> None:
        super().__init__(image_dim, text_dim, momentum=momentum, **options)


class SwALIP(CrossObjective):
    """SwAV with the other modality's strong embeddings as prototypes; two strong views.

    Args:
        image_dim, text_dim: have no effect, as there are no heads.
        epsilon, iterations: of Sinkhorn.
        gather_gradients: `none` as published.
    """

    def __init__(
        self,
        image_dim: int = 0,
        text_dim: int = 0,
        epsilon: float = 0.05,
        iterations: int = 3,
        gather_gradients: Gradients = "exact",
    ) -> None:
        super().__init__()
        self.epsilon, self.iterations, self.gather_gradients = epsilon, iterations, gather_gradients

    def forward(self, images, texts, strong_images, strong_texts, strong_scale, batch):  # type: ignore[no-untyped-def]
        return swalip(
            strong_images, strong_texts, strong_scale, self.epsilon, self.iterations,
            gather_gradients=self.gather_gradients,
        )  # fmt: skip


class Predictor(nn.Sequential):
    """Linear without bias -> BatchNorm -> ReLU -> Linear with bias."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__(
            nn.Linear(dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
        )


CROSS: dict[str, Callable[..., CrossObjective]] = {
    "barlip": BarLIP,
    "siamlip": SiamLIP,
    "byolip": BYOLIP,
    "swalip": SwALIP,
}
_KINDS = ("image", "text")


def _heads(separate: bool, make: Callable[[], nn.ModuleDict]) -> nn.ModuleList:
    """Heads of weak and strong views, or one pair for both."""
    return nn.ModuleList(make() for _ in range(1 + separate))


def _pair(image_dim: int, text_dim: int, dims: tuple[int, ...], **options: Any) -> nn.ModuleDict:
    return nn.ModuleDict(
        {kind: MLPHead(dim, dims, **options) for kind, dim in zip(_KINDS, (image_dim, text_dim), strict=True)}
    )


def _indices(views: int) -> Iterator[tuple[int, int]]:
    """Pairs of an image and a text view: the weak one, then every combination of strong ones."""
    yield 0, 0
    for i in range(1, views):
        for j in range(1, views):
            yield i, j


def _pairs(
    heads: nn.ModuleList, images: Sequence[Tensor], texts: Sequence[Tensor]
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    for i, j in _indices(len(images)):
        yield heads[min(i, len(heads) - 1, 1)], images[i], texts[j]
