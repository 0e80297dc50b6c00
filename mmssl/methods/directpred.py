"""DirectPred: BYOL with a linear predictor that is worked out from what it is given, and never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmssl import dist
from mmssl.losses.cosine import negative_cosine
from mmssl.nn.head import Projection
from mmssl.objectives.accumulated import Accumulated
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import byol


class DirectPred(MultiView):
    """BYOL's loss, the predictor set after every step from the correlation of the projections of all processes.

    The predictor has the eigenvectors of a moving average of that correlation, and the roots of its eigenvalues, of
    which the largest counts as 1, plus `boost`.
    Tian et al., ICML 2021.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    memory: weight of the past in the average of the correlation.
    boost: what is added to the predictor's eigenvalues, the largest of which is 1 before.
    """

    compares = 2
    separate = True
    correlation: Tensor
    predictor: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (4096,),
        momentum: float = 0.996,
        memory: float = 0.3,
        boost: float = 0.1,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden)
        self.teacher = Teacher(encoders[self.key], self.head, separate=self.separate)
        self.register_buffer("correlation", torch.zeros(embed_dim, embed_dim, dtype=torch.double))
        self.register_buffer("predictor", torch.eye(embed_dim))
        self.momentum, self.memory, self.boost = momentum, memory, boost
        self.projected = Accumulated()

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = self.present(batch)
        embedded = [self.head.project(pooled) for pooled in self.pooled(encoders, batch)[:2]]
        targets = self.teacher(self.views(batch)[:2], len(present))
        losses = [
            2 + 2 * negative_cosine(mine @ self.predictor, other)  # the predictor is symmetric
            for mine, other in zip(embedded, reversed(targets), strict=True)
        ]
        self.projected.add(torch.cat([x[present] for x in embedded]))
        total = dist.mean(torch.stack(losses).sum(dim=0), present)
        return Loss(total, embeddings={self.key: embedded[0].detach()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)
        for rows in self.projected.take():
            rows = rows.double()  # small eigenvalues, whose roots are large, are lost in float32
            count = dist.total(torch.tensor(len(rows), device=rows.device))
            if count:
                self.correlation.lerp_(dist.total(rows.T @ rows) / count, 1 - self.memory)
                self.predictor.copy_(predictor_of(self.correlation, boost=self.boost))

    def spaces(self) -> Spaces:
        return {self.key: self.head}


def predictor_of(correlation: Tensor, *, boost: float) -> Tensor:
    """Returns the symmetric matrix (D, D) that amplifies the directions of a correlation by the roots of its values."""
    values, directions = torch.linalg.eigh(correlation)
    shares = values.clamp(min=0) / values.amax().clamp(min=1e-12)
    return (directions * (shares.sqrt() + boost)) @ directions.T


method = Method(byol.view, DirectPred)
