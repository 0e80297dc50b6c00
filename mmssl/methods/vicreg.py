"""VICReg: embeddings of two views agree, while each dimension varies, and not together with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmssl import dist
from mmssl.losses.vicreg import vicreg
from mmssl.nn.head import Projection
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import byol


class VICReg(MultiView):
    """Invariance between two views, with variance and covariance over the batch of all processes held in check.

    Bardes et al., ICLR 2022.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    invariance, variance, covariance: weight of this term.
    """

    compares = 2
    separate = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 8192,
        hidden: Sequence[int] = (8192, 8192),
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = self.present(batch)
        one, other = (self.head.project(pooled) for pooled in self.pooled(encoders, batch)[:2])
        everywhere = dist.gather(present)
        first, second = (dist.gather_with_grad(x) for x in (one, other))
        count = everywhere.sum()
        dist.note(count.where(count > 1, 0).float(), one.device)
        terms = vicreg(first, second, everywhere)
        named = dict(zip(self.weights, terms, strict=True))
        total = torch.stack([weight * named[name] for name, weight in self.weights.items()]).sum()
        return Loss(total, {name: term.detach() for name, term in named.items()}, {self.key: one.detach()})

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(byol.view, VICReg)
