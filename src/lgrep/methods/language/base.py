"""What a language objective offers: an image-text term that any image method can carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from lgrep.backbones.text import build_text_encoder
from lgrep.data.batch import Batch
from lgrep.errors import ConfigError
from lgrep.methods.modules.heads import MLPHead

Views = tuple[NonNegativeInt, ...]
Projection = Literal["linear", "mlp"]


class Tower(BaseModel):
    """The text encoder: `name` of `lgrep.backbones.text.build_text_encoder` and its options.

    `features` stands for stored caption features (`text=features`): there is no encoder to train.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = "clip"
    options: dict[str, Any] = {}


@dataclass(frozen=True)
class Modalities:
    """Widths that a language objective is built for.

    Attributes:
        image_dim: of the backbone's features.
        embedding_dim: of the method's embeddings.
        vocab_size, context_length: of the tokeniser.
        caption_dim: of stored caption features; 0: there are none.
        texts: T, text views.
        tokenizer: its registry name; empty: unknown.
        stored: stored caption features as SET/COLUMN; empty: there are none.
    """

    image_dim: int
    embedding_dim: int = 0
    vocab_size: int = 49408
    context_length: int = 77
    caption_dim: int = 0
    texts: int = 1
    tokenizer: str = ""
    stored: str = ""


class LanguageObjective(nn.Module):
    """An image-text objective beside (or without) an image method's own.

    Args:
        modalities: widths, supplied by the program.
        views: views of the batch that are matched with texts.
        image_views: views that the image method sees; None: all.
        tower: the text encoder.
        weight: of this objective in the sum.
        max_scale: the logit scale is clamped to [1, max_scale] after each step; None: not at all.

    Attributes:
        source: which of the method's outputs are matched, `features` of the backbone or `embeddings` of its head.
        min_texts: text views that it needs.
    """

    source: Literal["features", "embeddings"] = "features"
    min_texts: ClassVar[int] = 1

    def __init__(
        self,
        modalities: Modalities,
        views: Views | None = None,
        image_views: Views | None = None,
        tower: Tower | None = None,
        weight: float = 1.0,
        max_scale: float | None = 100.0,
    ) -> None:
        super().__init__()
        tower = Tower() if tower is None else tower
        self.views, self.image_views, self.weight, self.max_scale = views, image_views, weight, max_scale
        self.frozen = tower.name == "features"
        self._described = (tower, modalities)
        self._check(modalities)
        if self.frozen:
            self.tower, self.text_dim = None, modalities.caption_dim
        else:
            self.tower = build_text_encoder(
                tower.name, modalities.vocab_size, modalities.context_length, **tower.options
            )
            self.text_dim = self.tower.dim

    def forward(self, images: Sequence[Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and named scalars to log.

        Args:
            images: for each of `views`, [B, D].
            batch: carries the texts.
        """
        raise NotImplementedError

    def attach(self, backbone: nn.Module) -> None:
        """Called once, when the whole model is built; the backbone belongs to the method."""

    def texts(self, batch: Batch, number: int = 0, regularise: bool = False) -> Tensor:
        """Features [B, D] of one text view, or the stored ones."""
        if self.tower is None:
            assert batch.caption_features is not None
            return batch.caption_features
        assert batch.text is not None
        features: Tensor = self.tower(batch.text[number], regularise)
        return features

    def spaces(self) -> dict[str, tuple[str, str, str]]:
        """Attributes of each joint space: image projection, text projection and logit scale."""
        return {"z": ("image_projection", "text_projection", "logit_scale")}

    def description(self, projector: nn.Module | None = None) -> dict[str, Any]:
        """What rebuilds the text side from a checkpoint's weights: registry names, numbers and state-dict prefixes.

        Args:
            projector: of the method.
        """
        tower, modalities = self._described
        own = projector if self.source == "embeddings" else None  # the method's head places pictures
        # public weights are replaced by the checkpoint's, and a checkpoint may not name files to open
        options = {key: value for key, value in tower.options.items() if key != "weights"}
        return {
            "tower": {"name": tower.name, "options": options},
            "tokenizer": modalities.tokenizer,
            "vocab_size": modalities.vocab_size,
            "context_length": modalities.context_length,
            "stored": modalities.stored,
            "spaces": {
                name: {
                    "image": f"language.{image}" if own is None else "projector",
                    "text": f"language.{text}",
                    "logit_scale": f"language.{scale}",
                }
                for name, (image, text, scale) in self.spaces().items()
            },
        }

    def after_step(self) -> None:
        """Clamps the logit scales."""
        if self.max_scale is None:
            return
        with torch.no_grad():
            for name, parameter in self.named_parameters(recurse=False):
                if name.endswith("logit_scale"):
                    parameter.clamp_(0.0, math.log(self.max_scale))

    def _check(self, modalities: Modalities) -> None:
        if self.frozen and not modalities.caption_dim:
            raise ConfigError("language.tower.name=features needs stored caption features. Type text=features")
        if not self.frozen and modalities.texts < self.min_texts:
            raise ConfigError(
                f"{type(self).__name__} needs {self.min_texts} text views, but text.views gives {modalities.texts}. "
                f"Type text={'clip_rocket' if self.min_texts > 1 else 'clip'}"
            )


def log_scale(temperature: float) -> nn.Parameter:
    """The logarithm of a learned logit scale, 1 / temperature at the start."""
    return nn.Parameter(torch.tensor(math.log(1.0 / temperature)))


def projection(kind: Projection, width: int, out: int, hidden: int = 4096, std: float | None = None) -> nn.Module:
    """A bias-free linear map, or a three-layer MLP with BatchNorm.

    Args:
        kind: of the two.
        width: of the input.
        out: of the output.
        hidden: of the MLP's hidden layers.
        std: of the linear map's weights; None: width ** -0.5, as in CLIP.
    """
    if kind == "mlp":
        return MLPHead(width, (hidden, hidden, out))
    linear = nn.Linear(width, out, bias=False)
    nn.init.normal_(linear.weight, std=width**-0.5 if std is None else std)
    return linear


@torch.no_grad()
def matching_accuracy(image: Tensor, text: Tensor) -> Tensor:
    """Share of this process's pictures whose own text is the nearest of its texts; for logs."""
    nearest = (normalize(image.float(), dim=1) @ normalize(text.float(), dim=1).T).argmax(dim=1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
