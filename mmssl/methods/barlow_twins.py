"""Barlow Twins: each dimension of the embedding agrees between two views, and with no other dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmssl import dist
from mmssl.losses.barlow import barlow
from mmssl.nn.head import Projection
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import byol


class BarlowTwins(MultiView):
    """Squared distance of two views' cross-correlation over the batch of all processes from the identity.

    Zbontar et al., ICML 2021.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    redundancy: weight of what lies off the diagonal, the paper's lambda.
    """

    compares = 2
    separate = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 8192,
        hidden: Sequence[int] = (8192, 8192),
        redundancy: float = 0.0051,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden)
        self.redundancy = redundancy

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = self.present(batch)
        one, other = (self.head.project(pooled) for pooled in self.pooled(encoders, batch)[:2])
        everywhere = dist.gather(present)
        first, second = (dist.gather_with_grad(x) for x in (one, other))
        count = everywhere.sum()
        dist.note(count.where(count > 1, 0).float(), one.device)
        agreement, redundancy = barlow(first, second, everywhere)
        total = agreement + self.redundancy * redundancy
        logs = {"agreement": agreement.detach(), "redundancy": redundancy.detach()}
        return Loss(total, logs, {self.key: one.detach()})

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(byol.view, BarlowTwins)
