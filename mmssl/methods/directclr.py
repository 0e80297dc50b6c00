"""DirectCLR: SimCLR without a projector, on the first numbers of the features alone."""

from __future__ import annotations

from collections.abc import Mapping

from mmssl import dist
from mmssl.losses.contrast import in_batch
from mmssl.losses.infonce import info_nce_both_ways
from mmssl.nn.head import Leading
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Features, Loss, Method, Spaces
from mmssl.views import simclr


class DirectCLR(MultiView):
    """InfoNCE between two views' leading features, both ways; the rest of them follows by itself.

    The loss has only the other samples' other views as negatives, as the authors' code. Jing et al., ICLR 2022.

    dims: how many of the features are compared; 360 of a ResNet-50's 2048.
    temperature: of the softmax.
    """

    compares = 2

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        dims: int = 360,
        temperature: float = 0.1,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Leading(self.dim, out=dims)
        self.temperature = temperature

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        one, other = (self.head(Features(pooled)) for pooled in self.pooled(encoders, batch)[:2])
        present = self.present(batch)
        losses = info_nce_both_ways(in_batch(one, other, scale=1 / self.temperature, present=present))
        return Loss(dist.mean((losses[0] + losses[1]) / 2, present), embeddings={self.key: one.detach()})

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(simclr.view, DirectCLR)
