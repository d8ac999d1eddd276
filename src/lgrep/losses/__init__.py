"""Losses as pure functions of embeddings: no heads, no data, no state.

Embeddings come unnormalised unless said and are normalised inside in float32 or better. With several
processes each function sees the global batch of the default group and returns
`W * (sum over the local rows) / (rows of all)`: the mean over processes is the loss of the global batch and
DDP's average its exact gradient.
"""

from lgrep.losses.barlow_twins import barlow_twins
from lgrep.losses.clip import clip_contrastive, clip_rocket
from lgrep.losses.cosine_softmax import cosine_softmax_logits
from lgrep.losses.dino import batch_center, dino
from lgrep.losses.gather import Rows, gather, gather_keys, gather_with_gradient, global_rows, row_offset, world
from lgrep.losses.masked_reconstruction import masked_reconstruction
from lgrep.losses.masked_token import masked_token
from lgrep.losses.moco import moco_v3, nnclr
from lgrep.losses.multi_positive import (
    multi_positive_contrastive,
    multi_positive_image_text,
    multi_positive_query_key,
)
from lgrep.losses.negative_cosine import negative_cosine
from lgrep.losses.nt_xent import nt_xent
from lgrep.losses.siglip import siglip
from lgrep.losses.sinkhorn import sinkhorn, sinkhorn_scalings
from lgrep.losses.swalip import swalip
from lgrep.losses.swapped_prediction import swapped_prediction
from lgrep.losses.vicreg import vicreg

__all__ = [
    "Rows",
    "barlow_twins",
    "batch_center",
    "clip_contrastive",
    "clip_rocket",
    "cosine_softmax_logits",
    "dino",
    "gather",
    "gather_keys",
    "gather_with_gradient",
    "global_rows",
    "masked_reconstruction",
    "masked_token",
    "moco_v3",
    "multi_positive_contrastive",
    "multi_positive_image_text",
    "multi_positive_query_key",
    "negative_cosine",
    "nnclr",
    "nt_xent",
    "row_offset",
    "siglip",
    "sinkhorn",
    "sinkhorn_scalings",
    "swalip",
    "swapped_prediction",
    "vicreg",
    "world",
]
