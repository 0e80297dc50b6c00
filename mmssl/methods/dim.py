"""Deep InfoMax: tell by the summary of a sample which cells are its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.local_global import Measure, local_global
from mmssl.nn.mlp import mlp
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Features, Loss, Method
from mmssl.views import single


class DIM(MultiView):
    """Raises the mutual information between an encoder's pooled features and each of its cells.

    The encoder must give tokens: cells, patches, frames; the finer they are, the more there is to find. Hjelm et al.,
    ICLR 2019, without the prior on the features.

    measure: of mutual information, jsd or infonce, which wants more negatives.
    embed_dim: of the space in which cells and summaries are compared, and of the hidden layers that lead there.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        measure: Measure = "jsd",
        embed_dim: int = 2048,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.summary = Lift(self.dim, embed_dim)
        self.local = Lift(self.dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.measure: Measure = measure

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        features, present = encoders[self.key](self.views(batch, least=1)[0]), self.present(batch)
        tokens = self._tokens(features)
        cells = self.norm(self.local(tokens.flatten(0, 1))).unflatten(0, tokens.shape[:2])  # (B, N, E)
        losses = local_global(cells, self.summary(features.pooled), measure=self.measure, present=present)
        return Loss(dist.mean(losses, present), embeddings={self.key: features.pooled.detach()})

    def _tokens(self, features: Features) -> Tensor:
        """Returns the tokens (B, N, D); UserError for an encoder that gives none, or not as many of each sample."""
        if features.tokens is None or features.lengths is not None:
            found = "none" if features.tokens is None else "of each sample another number"
            raise UserError(f"dim compares tokens, but this encoder gives {found}; choose one such as convnet")
        return features.tokens


class Lift(nn.Module):
    """A layer with one hidden layer beside a linear one, which starts as the identity where it can."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.bent, self.straight = mlp((dim, out, out), bias=True), nn.Linear(dim, out)
        with torch.no_grad():
            self.straight.weight.copy_(torch.eye(out, dim))

    def forward(self, x: Tensor) -> Tensor:
        lifted: Tensor = self.bent(x) + self.straight(x)
        return lifted


method = Method(single.view, DIM)
