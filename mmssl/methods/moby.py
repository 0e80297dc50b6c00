"""MoBY: predict a slow copy's projection of the other view, and tell it from a queue of other samples' projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.queue_nce import queue_nce
from mmssl.nn.blocks import stop_drop_path
from mmssl.nn.head import Projection
from mmssl.nn.mlp import mlp
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.queue import Queue
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import byol


class MoBY(MultiView):
    """InfoNCE of each view's prediction with the teacher's projection of the other view: MoCo v2 and BYOL together.

    embed_dim: of the projection. hidden: hidden layers of the projection, and of the predictor. queue: how many earlier
    samples are the negatives, in one queue for each view; with gradients accumulated, it takes a step's last part.
    momentum: how slowly the teacher follows at the start; it rises to 1 by a cosine. The teacher has no drop path; the
    encoder should, of a rate of 0.1 or 0.2. encoder: as MultiView has it. Xie et al., 2021.
    """

    separate = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (4096,),
        temperature: float = 0.2,
        queue: int = 4096,
        momentum: float = 0.99,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden)
        self.predictor = mlp((embed_dim, *hidden, embed_dim))
        self.teacher = Teacher(encoders[self.key], self.head, separate=self.separate)
        stop_drop_path(self.teacher)
        self.queues = nn.ModuleList(Queue(queue, embed_dim) for _ in range(2))
        self.temperature, self.momentum = temperature, momentum
        self.newest: list[Tensor] = []

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = self.present(batch)
        embedded = [self.head.project(pooled) for pooled in self.pooled(encoders, batch)[:2]]
        queries = [F.normalize(self.predictor(x).float(), dim=1) for x in embedded]
        keys = [F.normalize(x, dim=1) for x in self.teacher(self.views(batch)[:2], len(present))]
        if self.training:
            self.newest = [rows[present] for rows in keys]
        losses, found = [], []
        for mine, other, queue in zip(queries, reversed(keys), reversed(self.queues), strict=True):
            rows = cast("Queue", queue).rows
            losses.append(queue_nce(mine, other, rows, scale=1 / self.temperature))
            found.append((mine * other).sum(dim=1) > (mine @ rows.T).amax(dim=1))
        total = dist.mean(torch.stack(losses).sum(dim=0), present)
        correct = torch.stack(found).float().mean(dim=0).masked_fill(~present, torch.nan)
        logs = {"accuracy": correct.nanmean()}
        return Loss(total, logs, {self.key: embedded[0].detach()}, {"correct": correct})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)
        for queue, new in zip(self.queues, self.newest, strict=True):
            cast("Queue", queue).push(new)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(byol.view, MoBY)
