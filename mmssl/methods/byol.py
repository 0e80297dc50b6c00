"""BYOL: predict what a slow copy of the network makes of the other view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmssl import dist
from mmssl.losses.cosine import negative_cosine
from mmssl.nn.head import Projection
from mmssl.nn.mlp import mlp
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import byol


class BYOL(MultiView):
    """Squared distance at unit length of each view's prediction from the teacher's projection of the other view.

    Grill et al., NeurIPS 2020.

    embed_dim: size of the projection.
    hidden: widths of the hidden layers of the projector, and of the predictor.
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
        momentum: float = 0.996,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden)
        self.predictor = mlp((embed_dim, *hidden, embed_dim))
        self.teacher = Teacher(encoders[self.key], self.head, separate=self.separate)
        self.momentum = momentum

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = self.present(batch)
        embedded = [self.head.project(pooled) for pooled in self.pooled(encoders, batch)[:2]]
        targets = self.teacher(self.views(batch)[:2], len(present))
        losses = [
            2 + 2 * negative_cosine(self.predictor(mine), other)
            for mine, other in zip(embedded, reversed(targets), strict=True)
        ]
        total = dist.mean(torch.stack(losses).sum(dim=0), present)
        return Loss(total, embeddings={self.key: embedded[0].detach()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(byol.view, BYOL)
