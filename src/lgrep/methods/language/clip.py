"""CLIP, SigLIP and DeCLIP's nearest-neighbour supervision."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from lgrep.data.batch import Batch
from lgrep.losses import clip_contrastive, siglip
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
from lgrep.methods.modules.queue import FeatureQueue


class CLIPObjective(LanguageObjective):
    """CLIP (Radford et al., arXiv 2103.00020); the mean over the views that are matched with the first text view.

    Args:
        modalities, views, image_views, tower, weight, max_scale: see `LanguageObjective`.
        embed_dim: width of the joint space.
        image_projection, text_projection: `linear` or `mlp`.
        source: `features`, or `embeddings`: the method's own head is the image projection (LG-SLIP).
        temperature: at the start; learned.
        label_smoothing: of the cross-entropy.
        gather_gradients: what flows back to rows as candidates of others on several processes.
    """

    def __init__(
        self,
        modalities: Modalities,
        views: Views | None = (0,),
        image_views: Views | None = None,
        tower: Tower | None = None,
        weight: NonNegativeFloat = 1.0,
        max_scale: PositiveFloat | None = 100.0,
        embed_dim: PositiveInt = 512,
        image_projection: Projection = "linear",
        text_projection: Projection = "linear",
        source: Literal["features", "embeddings"] = "features",
        temperature: PositiveFloat = 0.07,
        label_smoothing: NonNegativeFloat = 0.0,
        gather_gradients: Gradients = "exact",
    ) -> None:
        super().__init__(modalities, views, image_views, tower, weight, max_scale)
        self.source, self.label_smoothing, self.gather_gradients = source, label_smoothing, gather_gradients
        if source == "embeddings":
            embed_dim = modalities.embedding_dim
        self.image_projection: nn.Module = (
            nn.Identity() if source == "embeddings" else projection(image_projection, modalities.image_dim, embed_dim)
        )
        self.text_projection = projection(text_projection, self.text_dim, embed_dim)
        self.logit_scale = log_scale(temperature)

    def forward(self, images: list[Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        embedded = [self.image_projection(image) for image in images]
        text = self.text_projection(self.texts(batch))
        scale = self.logit_scale.exp()
        loss = torch.stack([self.match(image, text, scale) for image in embedded]).mean()
        return loss, {"accuracy": matching_accuracy(embedded[0], text), "logit_scale": scale.detach()}

    def match(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """The loss of one pair of embeddings [B, E]."""
        return clip_contrastive(image, text, scale, self.label_smoothing, gather_gradients=self.gather_gradients)


class SigLIPObjective(CLIPObjective):
    """SigLIP (Zhai et al., arXiv 2303.15343): a binary decision per pair, with a learned bias.

    Args:
        modalities, views, image_views, tower, weight, embed_dim: see `CLIPObjective`.
        image_projection, text_projection, source: see `CLIPObjective`.
        temperature: at the start; learned and not clamped.
        bias: of the logits at the start; learned.
    """

    def __init__(
        self,
        modalities: Modalities,
        views: Views | None = (0,),
        image_views: Views | None = None,
        tower: Tower | None = None,
        weight: NonNegativeFloat = 1.0,
        embed_dim: PositiveInt = 512,
        image_projection: Projection = "linear",
        text_projection: Projection = "linear",
        source: Literal["features", "embeddings"] = "features",
        temperature: PositiveFloat = 0.1,
        bias: float = -10.0,
    ) -> None:
        super().__init__(
            modalities, views, image_views, tower, weight, None, embed_dim, image_projection, text_projection, source,
            temperature,
        )  # fmt: skip
        self.logit_bias = nn.Parameter(torch.tensor(float(bias)))

    def match(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return siglip(image, text, scale, self.logit_bias)


class DeCLIPNNSObjective(CLIPObjective):
    """CLIP, and CLIP with each text replaced by its nearest neighbour among earlier ones (arXiv 2110.05208, NNS).

    Args:
        modalities, views, image_views, tower, weight, max_scale, embed_dim, temperature: see `CLIPObjective`.
        clip_weight, neighbour_weight: of the two terms.
        queue_size: projected texts of earlier steps.
        reference_behaviour: a batch that reaches the queue's end is cut off there, as in language-guided SSL's code.
    """

    def __init__(
        self,
        modalities: Modalities,
        views: Views | None = (0,),
        image_views: Views | None = None,
        tower: Tower | None = None,
        weight: NonNegativeFloat = 1.0,
        max_scale: PositiveFloat | None = 100.0,
        embed_dim: PositiveInt = 512,
        temperature: PositiveFloat = 0.07,
        clip_weight: NonNegativeFloat = 0.8,
        neighbour_weight: NonNegativeFloat = 0.2,
        queue_size: PositiveInt = 16384,
        reference_behaviour: bool = False,
    ) -> None:
        super().__init__(modalities, views, image_views, tower, weight, max_scale, embed_dim, temperature=temperature)
        self.weights = (clip_weight, neighbour_weight)
        self.queue = FeatureQueue(queue_size, embed_dim, wrap=not reference_behaviour)

    def match(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        own, neighbour = self.weights
        loss = own * super().match(image, text, scale)
        loss = loss + neighbour * super().match(image, self.queue.nearest(text).to(text), scale)
        self.queue.push(text)
        return loss
