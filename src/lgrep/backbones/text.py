"""Text encoders by name: one function from a string to a module, token ids -> features."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from lgrep.errors import ConfigError, did_you_mean


class TextEncoder(nn.Module):
    """What every text encoder made here offers.

    Attributes:
        dim: D of the features.
        name: registry name that rebuilds it.
    """

    dim: int
    name: str

    def forward(self, tokens: Tensor, regularise: bool = False) -> Tensor:
        """Features [N, D] of token ids [N, L]; `regularise` turns the encoder's own dropout on (in training)."""
        raise NotImplementedError


class ClipText(TextEncoder):
    """CLIP's causal transformer with its initialisation; the feature is the last layer's at the largest id.

    Args:
        vocab_size, context_length: of the tokeniser.
        width, heads, layers: of the transformer.
        dropout: probability with which elements of the residual stream are dropped at the input of every block, when
            asked to regularise (CLIP-rocket, https://arxiv.org/abs/2305.08675: strong texts only).

    Paper:
        Radford et al., CLIP, 2021, https://arxiv.org/abs/2103.00020, section 2.4.
    """

    def __init__(
        self,
        vocab_size: int = 49408,
        context_length: int = 77,
        width: int = 512,
        heads: int = 8,
        layers: int = 12,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        transformer = _open_clip("transformer")
        if width % heads:
            raise ConfigError(f"language.tower: width={width} is no multiple of heads={heads}. Type tower.heads=...")
        self.transformer = transformer.TextTransformer(
            context_length=context_length,
            vocab_size=vocab_size,
            width=width,
            heads=heads,
            layers=layers,
            act_layer=transformer.QuickGELU,
            proj_type="none",
            pool_type="argmax",
        )
        self.dim, self.name = width, "clip"
        self.dropout = dropout
        self._dropping = False
        if dropout:
            for block in self.transformer.transformer.resblocks:
                block.register_forward_pre_hook(self._drop)

    def forward(self, tokens: Tensor, regularise: bool = False) -> Tensor:
        self._dropping = regularise and self.training
        try:
            features: Tensor = self.transformer(tokens)
        finally:
            self._dropping = False
        return features

    def _drop(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self._dropping:
            return inputs
        return (dropout(inputs[0], self.dropout), *inputs[1:])


class OpenClipText(TextEncoder):
    """The text tower of one of open_clip's models, its projection included.

    Args:
        model: name of the model.
        weights: name of public weights (downloads them); None: fresh ones.
    """

    def __init__(self, model: str, weights: str | None = None) -> None:
        super().__init__()
        open_clip = _open_clip()
        known = list(open_clip.list_models())
        if model not in known:
            raise ConfigError(f"language.tower.name=open_clip/{model}: {did_you_mean(model, known)}")
        self.tower = open_clip.create_model(model, pretrained=weights, force_custom_text=True).text
        self.name = f"open_clip/{model}"
        with torch.no_grad():
            context = int(getattr(self.tower, "context_length", 77))
            self.dim = int(self.tower(torch.zeros(1, context, dtype=torch.long)).shape[1])

    def forward(self, tokens: Tensor, regularise: bool = False) -> Tensor:
        features: Tensor = self.tower(tokens)
        return features


def build_text_encoder(name: str, vocab_size: int, context_length: int, **options: Any) -> TextEncoder:
    """Build a text encoder.

    Args:
        name: `clip` (CLIP's transformer from scratch; options of `ClipText`), or `open_clip/<model>`.
        vocab_size, context_length: of the tokeniser.
        options: further arguments of the encoder.

    Raises:
        ConfigError: an unknown name or option, or open_clip is not installed.

    >>> encoder = build_text_encoder("clip", 100, 8, width=16, heads=2, layers=1)
    >>> encoder(torch.randint(0, 100, (3, 8))).shape
    torch.Size([3, 16])
    """
    with suppress(TypeError):
        if name == "clip":
            return ClipText(vocab_size, context_length, **options)
        if name.startswith("open_clip/"):
            return OpenClipText(name.partition("/")[2], **options)
        raise ConfigError(
            f"language.tower.name={name}: it is 'clip', or 'open_clip/<model>' such as open_clip/ViT-B-32"
        )
    raise ConfigError(f"language.tower: {name} does not take the options {', '.join(options)}")


def _open_clip(module: str = "") -> Any:
    try:
        import open_clip
        import open_clip.transformer
    except ImportError as error:
        raise ConfigError("text towers need the extra: pip install 'lgrep[clip]'") from error
    return open_clip.transformer if module else open_clip
