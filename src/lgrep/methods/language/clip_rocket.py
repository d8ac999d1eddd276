"""CLIP-rocket: CLIP on a weak pair and on all pairs of strong views, with heads of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from lgrep.data.batch import Batch
from lgrep.losses import clip_rocket
from lgrep.losses.gather import Gradients
from lgrep.methods.language.base import (
    LanguageObjective,
    Modalities,
    Projection,
    Tower,
    Views,
    log_scale,
    matching_accuracy,
    projection,
)
from lgrep.methods.language.cross import CROSS, CrossObjective

Cross = Literal["none", "siamlip", "byolip", "barlip", "swalip"]


class ClipRocketObjective(LanguageObjective):
    """CLIP-rocket (Fini et al., arXiv 2305.08675) and its non-contrastive relatives.

    The first of `views` is weak, the others are strong; the same holds for text views.

    Args:
        modalities, views, image_views, tower, weight, max_scale: see `LanguageObjective`.
        embed_dim: width of the joint spaces.
        weak_projection: `linear` (published) or `mlp`.
        strong_projection: `mlp` (published) or `linear`.
        separate_projections: heads and a logit scale of their own for strong views; False shares the weak ones.
        hidden_dim: of MLP heads.
        temperature, strong_temperature: at the start; learned.
        label_smoothing: on strong pairs.
        reduction: `sum` is twice `mean`, as published.
        cross: a further image-text objective on the same views (SiamLIP, BYOLIP, BarLIP, SwALIP).
        cross_weight: of it.
        cross_options: arguments of its class in `lgrep.methods.language.cross`.
        gather_gradients: `exact`; `none` as published.
    """

    min_texts = 2

    def __init__(
        self,
        modalities: Modalities,
        views: Views | None = None,
        image_views: Views | None = None,
        tower: Tower | None = None,
        weight: NonNegativeFloat = 1.0,
        max_scale: PositiveFloat | None = 100.0,
        embed_dim: PositiveInt = 256,
        weak_projection: Projection = "linear",
        strong_projection: Projection = "mlp",
        separate_projections: bool = True,
        hidden_dim: PositiveInt = 4096,
        temperature: PositiveFloat = 0.07,
        strong_temperature: PositiveFloat = 0.1,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        reduction: Literal["mean", "sum"] = "mean",
        cross: Cross = "none",
        cross_weight: NonNegativeFloat = 1.0,
        cross_options: dict[str, Any] | None = None,
        gather_gradients: Gradients = "exact",
    ) -> None:
        super().__init__(modalities, views, image_views, tower, weight, max_scale)
        self.label_smoothing, self.reduction, self.gather_gradients = label_smoothing, reduction, gather_gradients
        self.cross_weight, self.separate = cross_weight, separate_projections
        widths = (modalities.image_dim, self.text_dim)
        weak = [projection(weak_projection, width, embed_dim, hidden_dim) for width in widths]
        self.image_projection, self.text_projection = weak
        self.logit_scale = log_scale(temperature)
        if separate_projections:
            strong = [projection(strong_projection, width, embed_dim, hidden_dim) for width in widths]
            self.strong_image_projection, self.strong_text_projection = strong
            self.strong_logit_scale = log_scale(strong_temperature)
        else:
            self.strong_image_projection, self.strong_text_projection = weak
            self.strong_logit_scale = self.logit_scale
        self.cross: CrossObjective | None = (
            None
            if cross == "none"
            else CROSS[cross](*widths, gather_gradients=gather_gradients, **(cross_options or {}))
        )

    def spaces(self) -> dict[str, tuple[str, str, str]]:
        if not self.separate:
            return super().spaces()
        return {**super().spaces(), "h": ("strong_image_projection", "strong_text_projection", "strong_logit_scale")}

    def attach(self, backbone: nn.Module) -> None:
        if self.cross is not None:
            self.cross.attach(backbone, self.tower)

    def forward(self, images: list[Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        texts = [self.texts(batch, number, regularise=number > 0) for number in range(len(images))]
        weak_image, weak_text = self.image_projection(images[0]), self.text_projection(texts[0])
        strong_images = [self.strong_image_projection(image) for image in images[1:]]
        strong_texts = [self.strong_text_projection(text) for text in texts[1:]]
        scale, strong_scale = self.logit_scale.exp(), self.strong_logit_scale.exp()
        loss = clip_rocket(
            weak_image, weak_text, strong_images, strong_texts, scale, strong_scale, self.label_smoothing,
            "sum" if self.reduction == "sum" else "mean", gather_gradients=self.gather_gradients,
        )  # fmt: skip
        parts = {"accuracy": matching_accuracy(weak_image, weak_text), "logit_scale": scale.detach()}
        if self.cross is not None:
            cross = self.cross(images, texts, strong_images, strong_texts, strong_scale, batch)
            parts["cross"] = cross.detach()
            loss = loss + self.cross_weight * cross
        return loss, parts

    def after_step(self) -> None:
        if self.cross is not None:  # as published, before the clamp
            self.cross.after_step()
        super().after_step()
