"""MAE: reconstruct the patches that the encoder does not see."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.errors import ConfigError
from lgrep.losses import masked_reconstruction
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.masking import random_order
from lgrep.methods.modules.positions import sincos_positions


class MAE(Method):
    """Masked autoencoder (He et al., arXiv 2111.06377); the backbone is one of timm's ViTs.

    Args:
        backbone: image encoder.
        mask_ratio: share of the patches that the encoder does not see.
        decoder_dim, decoder_depth, decoder_heads: of the decoder, which is thrown away after training.
        normalise_target: predict patches scaled to mean 0 and variance 1.
        fixed_positions: sine-cosine position embeddings that are not learned, as published.
    """

    min_anchors = 1
    exact_views = 1
    compares_pictures = False
    calls_backbone = False
    positions: Tensor

    def __init__(
        self,
        backbone: Backbone,
        mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75,
        decoder_dim: PositiveInt = 512,
        decoder_depth: PositiveInt = 8,
        decoder_heads: PositiveInt = 16,
        normalise_target: bool = True,
        fixed_positions: bool = True,
    ) -> None:
        super().__init__(backbone)
        if not all(hasattr(backbone, part) for part in ("patch_embed", "blocks", "norm_pre", "_pos_embed")):
            raise ConfigError(f"MAE needs one of timm's ViTs, not {backbone.name}. Type backbone=vit_small")
        from timm.models.vision_transformer import Block

        self.mask_ratio, self.normalise_target = mask_ratio, normalise_target
        vit: Any = backbone
        grid, width = vit.patch_embed.grid_size, vit.embed_dim
        self.patch, self.prefix = vit.patch_embed.patch_size[0], vit.num_prefix_tokens
        if fixed_positions:
            extra = vit.pos_embed.shape[1] - grid[0] * grid[1]
            vit.pos_embed.requires_grad_(False).copy_(sincos_positions(width, grid, extra))
        self.embed = nn.Linear(width, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(decoder_dim).normal_(std=0.02))
        self.register_buffer("positions", sincos_positions(decoder_dim, grid, self.prefix))
        norm = partial(nn.LayerNorm, eps=1e-6)
        blocks = [Block(decoder_dim, decoder_heads, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth)]
        self.decoder = nn.Sequential(*blocks, norm(decoder_dim))
        self.predict = nn.Linear(decoder_dim, 3 * self.patch**2)

    def training_loss(self, batch: Batch) -> StepOutput:
        assert batch.keys is not None
        pictures = batch.whole(0)
        tokens = (pictures.shape[-1] // self.patch) ** 2
        order = random_order(self.seed, batch.keys, 0, tokens)
        visible = order[:, : max(1, int(tokens * (1 - self.mask_ratio)))]
        mask = torch.ones_like(order, dtype=torch.bool).scatter_(1, visible, False)
        encoded = self._encode(pictures, visible)
        prediction = self._decode(encoded, visible, tokens)
        loss = masked_reconstruction(prediction, self._patches(pictures), mask, self.normalise_target)
        pooled: Tensor = self.backbone.forward_head(encoded, pre_logits=True)  # type: ignore[operator]
        return StepOutput(loss, pooled, pooled, {})

    def _encode(self, pictures: Tensor, visible: Tensor) -> Tensor:
        """Encoded prefix and visible patches [B, prefix + visible, D]."""
        vit: Any = self.backbone
        tokens = vit._pos_embed(vit.patch_embed(pictures))
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        patches = patches.gather(1, visible[:, :, None].expand(-1, -1, patches.shape[2]))
        encoded: Tensor = vit.norm(vit.blocks(vit.norm_pre(torch.cat([prefix, patches], dim=1))))
        return encoded

    def _decode(self, encoded: Tensor, visible: Tensor, tokens: int) -> Tensor:
        """Predicted patches [B, tokens, 3 * patch ** 2]."""
        embedded = self.embed(encoded)
        prefix, patches = embedded[:, : self.prefix], embedded[:, self.prefix :]
        every = self.mask_token.to(patches).expand(len(patches), tokens, -1)
        every = every.scatter(1, visible[:, :, None].expand_as(patches), patches)
        decoded = self.decoder(torch.cat([prefix, every], dim=1) + self.positions)
        predicted: Tensor = self.predict(decoded[:, self.prefix :])
        return predicted

    def _patches(self, pictures: Tensor) -> Tensor:
        """[B, 3, S, S] as patches [B, L, patch * patch * 3], row by row."""
        batch, channels, side, _ = pictures.shape
        cells = side // self.patch
        grid = pictures.reshape(batch, channels, cells, self.patch, cells, self.patch)
        return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, cells**2, -1)
