"""Training steps of other libraries, put together as their own examples do: forward pass, loss, teacher, prototypes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lgrep.data.batch import Batch

WIDTHS = {
    "simclr": {"projector_dims": [512, 128]},
    "byol": {"projector_dims": [1024, 256], "predictor_dims": [1024, 256]},
    "swav": {"projector_dims": [512, 128], "prototypes": 512, "freeze_steps": 0},
    "dino": {"hidden_dim": 512, "bottleneck_dim": 64, "prototypes": 2048, "freeze_share": 0.0},
    "mae": {"decoder_dim": 512, "decoder_depth": 1, "decoder_heads": 16},
    "clip": {},
}
TOWER = {"width": 256, "heads": 4, "layers": 4}
VOCABULARY, CONTEXT, EMBEDDING = 49408, 32, 256


class Peer(nn.Module):
    """`loss(batch)` and what happens around it."""

    def before_step(self) -> None:
        """Precedes the loss."""

    def loss(self, batch: Batch) -> Tensor:
        raise NotImplementedError


class SimCLR(Peer):
    """After lightly's examples/pytorch/simclr.py."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        self.backbone, self.head, self.criterion = backbone, SimCLRProjectionHead(dim, 512, 128), NTXentLoss(0.1)

    def loss(self, batch: Batch) -> Tensor:
        first, second = (self.head(self.backbone(view)) for view in batch.views)
        value: Tensor = self.criterion(first, second)
        return value


class BYOL(Peer):
    """After lightly's examples/pytorch/byol.py."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.backbone, self.head = backbone, BYOLProjectionHead(dim, 1024, 256)
        self.predictor, self.criterion = BYOLPredictionHead(256, 1024, 256), NegativeCosineSimilarity()
        self.teacher, self.teacher_head = copy.deepcopy(backbone), copy.deepcopy(self.head)
        for module in (self.teacher, self.teacher_head):
            deactivate_requires_grad(module)

    def before_step(self) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.teacher, 0.996)
        update_momentum(self.head, self.teacher_head, 0.996)

    def loss(self, batch: Batch) -> Tensor:
        predictions = [self.predictor(self.head(self.backbone(view))) for view in batch.views]
        with torch.no_grad():
            first, second = (self.teacher_head(self.teacher(view)) for view in batch.views)
        value: Tensor = 0.5 * (self.criterion(predictions[0], second) + self.criterion(predictions[1], first))
        return value


class SwAV(Peer):
    """After lightly's examples/pytorch/swav.py."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        self.backbone, self.head = backbone, SwaVProjectionHead(dim, 512, 128)
        self.prototypes, self.criterion = SwaVPrototypes(128, n_prototypes=512), SwaVLoss()

    def before_step(self) -> None:
        self.prototypes.normalize()

    def loss(self, batch: Batch) -> Tensor:
        units = [nn.functional.normalize(self.head(self.backbone(view)), dim=1, p=2) for view in batch.views]
        scores = [self.prototypes(unit) for unit in units]
        value: Tensor = self.criterion(scores[:2], scores[2:])
        return value


class DINO(Peer):
    """After lightly's examples/pytorch/dino.py."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.backbone, self.head = backbone, DINOProjectionHead(dim, 512, 64, 2048, freeze_last_layer=1)
        self.teacher, self.teacher_head = copy.deepcopy(backbone), DINOProjectionHead(dim, 512, 64, 2048)
        for module in (self.teacher, self.teacher_head):
            deactivate_requires_grad(module)
        self.criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)

    def before_step(self) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.teacher, 0.996)
        update_momentum(self.head, self.teacher_head, 0.996)

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(view)) for view in batch.views[:2]]
        scores = [self.head(self.backbone(view)) for view in batch.views]
        value: Tensor = self.criterion(targets, scores, epoch=0)
        return value


class MAE(Peer):
    """After lightly's examples/pytorch/mae.py."""

    def __init__(self, backbone: Any, dim: int) -> None:
        super().__init__()
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        self.backbone, self.tokens = MaskedVisionTransformerTIMM(vit=backbone), backbone.patch_embed.num_patches + 1
        self.patch = backbone.patch_embed.patch_size[0]
        self.decoder = MAEDecoderTIMM(self.tokens - 1, self.patch, 3, dim, 512, 1, 16)
        self.criterion = nn.MSELoss()

    def loss(self, batch: Batch) -> Tensor:
        from lightly.models import utils

        (pictures,) = batch.views
        size = len(pictures)
        keep, mask = utils.random_token_mask((size, self.tokens), mask_ratio=0.75, device=pictures.device)
        encoded = self.decoder.embed(self.backbone.encode(images=pictures, idx_keep=keep))
        masked = utils.repeat_token(self.decoder.mask_token, (size, self.tokens))
        decoded = self.decoder.decode(utils.set_at_index(masked, keep, encoded.type_as(masked)))
        predicted = self.decoder.predict(utils.get_at_index(decoded, mask))
        target = utils.get_at_index(utils.patchify(pictures, self.patch), mask - 1)
        value: Tensor = self.criterion(predicted, target)
        return value


class CLIP(Peer):
    """open_clip's text tower and loss, as in its training loop; lightly has no CLIP."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        import open_clip
        from open_clip.transformer import QuickGELU, TextTransformer

        self.backbone, self.criterion = backbone, open_clip.ClipLoss()
        self.text = TextTransformer(
            CONTEXT,
            VOCABULARY,
            TOWER["width"],
            TOWER["heads"],
            TOWER["layers"],
            output_dim=EMBEDDING,
            act_layer=QuickGELU,
        )
        self.project = nn.Linear(dim, EMBEDDING, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))

    def loss(self, batch: Batch) -> Tensor:
        assert batch.text is not None
        image = nn.functional.normalize(self.project(self.backbone(batch.views[0])), dim=-1)
        text = nn.functional.normalize(self.text(batch.text[0]), dim=-1)
        value: Tensor = self.criterion(image, text, self.logit_scale.exp())
        return value


PEERS: dict[str, tuple[str, Callable[..., Peer]]] = {
    "simclr": ("lightly", SimCLR),
    "byol": ("lightly", BYOL),
    "swav": ("lightly", SwAV),
    "dino": ("lightly", DINO),
    "mae": ("lightly", MAE),
    "clip": ("open_clip", CLIP),
}
