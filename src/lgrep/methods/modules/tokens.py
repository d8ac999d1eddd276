"""Patch tokens of timm's ViTs, with some patches replaced by a mask token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def encode_tokens(
    vit: nn.Module, pictures: Tensor, mask_token: Tensor | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pooled features and patch tokens after the last norm.

    Args:
        vit: one of timm's vision transformers.
        pictures: [N, 3, S, S].
        mask_token: [D], put in place of masked patch embeddings, before positions are added.
        mask: Bool [N, L], true at masked patches, row by row.

    Returns:
        [N, D] and [N, L, D].

    Paper:
        Zhou et al., iBOT, 2022, https://arxiv.org/abs/2111.07832.
    """
    model: Any = vit
    patches = model.patch_embed(pictures)
    if mask is not None and mask_token is not None:
        where = mask.view(*patches.shape[:-1], 1)
        patches = torch.where(where, mask_token.to(patches.dtype), patches)
    tokens = model.norm(model.blocks(model.norm_pre(model.patch_drop(model._pos_embed(patches)))))
    return model.forward_head(tokens, pre_logits=True), tokens[:, model.num_prefix_tokens :]
