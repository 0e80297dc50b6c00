"""MoBY: predict a slow copy's projection of the other view, and tell it from a queue of other samples' projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
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

    The teacher has no drop path; the encoder should, of a rate of 0.1 or 0.2.
    Xie et al., 2021.

    embed_dim: size of the projection.
    hidden: widths of the hidden layers of the projector, and of the predictor.
    temperature: of the softmax.
    queue: how many earlier samples are the negatives, in one queue for each view.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    """

    compares = 2
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

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = self.present(batch)
        embedded = [self.head.project(pooled) for pooled in self.pooled(encoders, batch)[:2]]
        queries = [F.normalize(self.predictor(x).float(), dim=1) for x in embedded]
        keys = [F.normalize(x, dim=1) for x in self.teacher(self.views(batch)[:2], len(present))]
        for queue, rows in zip(self.queues, keys, strict=True):
            cast("Queue", queue).note(rows, present)
        losses, found = [], []
        for mine, other, queue in zip(queries, reversed(keys), reversed(self.queues), strict=True):
            contrast = Contrast(mine, cast("Queue", queue).rows, 1 / self.temperature, own=other)
            losses.append(info_nce(contrast))
            found.append(contrast.correct())
        total = dist.mean(torch.stack(losses).sum(dim=0), present)
        correct = torch.stack(found).float().mean(dim=0).masked_fill(~present, torch.nan)
        logs = {"accuracy": correct.nanmean()}
        return Loss(total, logs, {self.key: embedded[0].detach()}, {"correct": correct})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)
        for queue in self.queues:
            cast("Queue", queue).write()

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(byol.view, MoBY)
