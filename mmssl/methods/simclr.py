"""SimCLR: find the other view of each sample among all views of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.nt_xent import nt_xent
from mmssl.nn.head import Middle, Projection
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import simclr


class SimCLR(MultiView):
    """NT-Xent between two views' projections. Chen et al., ICML 2020.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers; by default one as wide as the features, and two in the second
        version.
    temperature: of the softmax; 0.5 suits batches of some hundred small images, 0.1 large ones, as the paper found.
    """

    compares = 2
    depth: ClassVar[int] = 1

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        temperature: float = 0.1,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        layers = (self.dim,) * self.depth if hidden is None else hidden
        self.head = Projection(self.dim, out=embed_dim, hidden=layers, last_norm=True)
        self.temperature = temperature

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        one, other = (self._embed(pooled) for pooled in self.pooled(encoders, batch)[:2])
        present = self.present(batch)
        total = dist.mean(nt_xent(one, other, temperature=self.temperature, present=present), present)
        return Loss(total, embeddings={self.key: one.detach()})

    def _embed(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.head.project(pooled), dim=1)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


class SimCLRv2(SimCLR):
    """SimCLR with two hidden layers, by default as wide as the features. Chen et al., NeurIPS 2020.

    The encoder keeps the first of them as the space `TASK_middle`, from which the paper transfers.
    """

    depth = 2

    def spaces(self) -> Spaces:
        return {self.key: self.head, f"{self.key}/middle": Middle.of(self.head)}


method = Method(simclr.view, SimCLR)
v2 = Method(simclr.view, SimCLRv2)
