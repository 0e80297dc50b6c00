"""SimSiam: predict the other view's projection, which is held still, by the same network without a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmssl import dist
from mmssl.losses.cosine import negative_cosine
from mmssl.nn.head import Projection
from mmssl.nn.mlp import mlp
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import moco_v2


class SimSiam(MultiView):
    """Negative cosine of each view's prediction with the other's projection, through which no gradient flows.

    Chen & He, CVPR 2021.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    bottleneck: width of the predictor's hidden layer; the predictor's learning rate stays at its peak.
    """

    compares = 2
    separate = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 2048,
        hidden: Sequence[int] = (2048, 2048),
        bottleneck: int = 512,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden, last_norm=True, affine=False)
        self.predictor = mlp((embed_dim, bottleneck, embed_dim), bias=True)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        embedded = [self.head.project(pooled) for pooled in self.pooled(encoders, batch)[:2]]
        losses = [
            negative_cosine(self.predictor(mine), other)
            for mine, other in zip(embedded, reversed(embedded), strict=True)
        ]
        total = dist.mean(torch.stack(losses).mean(dim=0), self.present(batch))
        return Loss(total, embeddings={self.key: embedded[0].detach()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.predictor.parameters()), "final_lr": 1.0}]

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(moco_v2.view, SimSiam)
