"""SwAV: predict from one view of a sample which prototypes another view was assigned to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.swapped import swapped_prediction
from mmssl.nn.head import Projection
from mmssl.nn.prototypes import Prototypes
from mmssl.numerics.constants import counts
from mmssl.numerics.monitors import assignment_entropy
from mmssl.numerics.sinkhorn import sinkhorn
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.queue import Queue
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import swav


class SwAV(MultiView):
    """Swapped prediction between views, the assignments made online and spread evenly. Caron et al., NeurIPS 2020.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    prototypes: how many, all of unit length.
    assign: how many of the first views, the large ones, are assigned; every view predicts.
    temperature: of the predictions.
    epsilon: of Sinkhorn-Knopp: small ones make sharp assignments.
    iterations: of Sinkhorn-Knopp.
    queue: embeddings of earlier steps that are assigned along with each batch, which batches smaller than the
        prototypes need (3840 for batches of 256).
    queue_from: share of training before the queue is used.
    frozen: share of training during which the prototypes stay as they are, one of 800 epochs.
    """

    compares = 2
    done: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] = (2048,),
        prototypes: int = 3000,
        assign: int = 2,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 0,
        queue_from: float = 0.075,
        frozen: float = 0.00125,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if assign < 1:
            raise UserError(f"assign is {assign}; expected at least 1 view whose assignment the others predict")
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden, bias=True)
        self.prototypes = Prototypes(embed_dim, prototypes)
        self.prototypes.trainable.fill_(frozen <= 0)
        self.queues = nn.ModuleList(Queue(queue, embed_dim) for _ in range(assign if queue else 0))
        for empty in self.queues:
            cast("Queue", empty).rows.zero_()  # rows that no embedding has reached yet do not count
        self.register_buffer("done", torch.zeros(()))
        self.assign, self.temperature, self.epsilon, self.iterations = assign, temperature, epsilon, iterations
        self.queue_from, self.frozen = queue_from, frozen

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        self.views(batch, least=max(2, self.assign))
        pooled, present = self.pooled(encoders, batch), self.present(batch)
        views = F.normalize(self.head.project(torch.cat(pooled)), dim=1).split(len(present))
        scores = [self.prototypes(view) for view in views]
        assigned = [self._assign(number, scores[number], present) for number in range(self.assign)]
        total = dist.mean(swapped_prediction(scores, assigned, temperature=self.temperature), present)
        for queue, view in zip(self.queues, views, strict=False):
            cast("Queue", queue).note(view, present)
        # Sinkhorn's assignments are even whatever happens, so what the scores alone would choose is watched.
        chosen = counts(scores[0].argmax(dim=1), scores[0].shape[1], present)
        logs = {
            "assignment_entropy": assignment_entropy(chosen),
            "chance_loss": torch.tensor(log(scores[0].shape[1])),
        }
        return Loss(total, logs, {self.key: views[0].detach()})

    @torch.no_grad()
    def _assign(self, number: int, scores: Tensor, present: Tensor) -> Tensor:
        """Returns the assignments (B, K) of a view, made together with its queue."""
        rows = len(scores)
        if self.queues:
            waiting = cast("Queue", self.queues[number]).rows[dist.rank() :: dist.world()]
            scores = torch.cat([scores, self.prototypes(waiting)])
            present = torch.cat([present, waiting.any(dim=1) & (self.done >= self.queue_from)])
        return sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations, present=present)[:rows]

    @torch.no_grad()
    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.prototypes.directions.copy_(F.normalize(self.prototypes.directions, dim=1))
        self.prototypes.trainable.fill_(progress >= self.frozen)
        for queue in self.queues:
            cast("Queue", queue).write()
        self.done.fill_(progress)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(swav.view, SwAV)
