"""SwAV: predict the other views' balanced assignment to prototypes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import normalize

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import sinkhorn, swapped_prediction
from lgrep.methods.base import Method, StepOutput, views_by_size
from lgrep.methods.modules.heads import MLPHead
from lgrep.methods.modules.prototypes import Prototypes
from lgrep.methods.modules.swav_queue import AssignmentQueue

Share = Annotated[float, Field(ge=0, le=1)]


class SwAV(Method):
    """SwAV (Caron et al., arXiv 2006.09882, eq. 2 to 5); views of the largest size are assigned to prototypes.

    Args:
        backbone: image encoder.
        projector_dims: widths of the projector, which sees all views at once, as published.
        prototypes: K.
        temperature: of the softmax over scores.
        epsilon: regularisation of the assignment.
        iterations: of Sinkhorn's algorithm.
        freeze_steps: steps at the start in which the prototypes keep still.
        queue_size: earlier embeddings over all processes that take part in the assignment; 0: none.
        queue_start: share of the run after which they do.
    """

    min_views = 2

    def __init__(
        self,
        backbone: Backbone,
        projector_dims: tuple[PositiveInt, ...] = (2048, 128),
        prototypes: PositiveInt = 3000,
        temperature: PositiveFloat = 0.1,
        epsilon: PositiveFloat = 0.05,
        iterations: PositiveInt = 3,
        freeze_steps: NonNegativeInt = 313,
        queue_size: NonNegativeInt = 0,
        queue_start: Share = 0.15,
    ) -> None:
        super().__init__(backbone)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.freeze_steps, self.queue_start = freeze_steps, queue_start
        self.projector = MLPHead(backbone.dim, projector_dims)
        self.prototypes = Prototypes(self.projector.out_dim, prototypes)
        self.queue = AssignmentQueue(queue_size, self.projector.out_dim) if queue_size else None

    def before_step(self) -> None:
        self.prototypes.unit_length()

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = self.projector(features)
        units = normalize(embeddings, dim=1).chunk(batch.num_views)
        scores = [self.prototypes(unit) for unit in units]
        assigned = next(iter(views_by_size(batch).values()))
        losses = []
        for v in assigned:
            targets = self._assign(v, scores[v].detach(), units[v].detach())
            losses += [swapped_prediction(scores[u], targets, self.temperature) for u in range(len(scores)) if u != v]
        return StepOutput(torch.stack(losses).mean(), features, embeddings, {})

    def resting(self) -> list[Tensor]:
        return [self.prototypes.weight] if self.steps_done < self.freeze_steps else []

    @torch.no_grad()
    def _assign(self, view: int, scores: Tensor, units: Tensor) -> Tensor:
        earlier = scores[:0]
        if self.queue is not None:
            if self.progress >= self.queue_start:
                earlier = self.prototypes(self.queue.share(view))
            self.queue.push(view, units)
        return sinkhorn(torch.cat([scores, earlier]), self.epsilon, self.iterations)[: len(scores)]
