"""Prototypes: directions that embeddings are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """Scores embeddings (B, D) of unit length by how they agree with each of `count` learnt directions: (B, count).

    lengths: whether each direction also learns a length, 1 at first, which DINO finds better but less stable.
    trainable: a buffer, 1, or 0 while the directions are to stay as they are; they then get a gradient of 0.
    """

    trainable: Tensor

    def __init__(self, dim: int, count: int, *, lengths: bool = False) -> None:
        super().__init__()
        self.directions = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))
        self.lengths = nn.Parameter(torch.ones(count)) if lengths else None
        self.register_buffer("trainable", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            directions = self._thawed(F.normalize(self.directions, dim=1))
            scores = x.float() @ directions.T
            return scores if self.lengths is None else scores * self._thawed(self.lengths)

    def _thawed(self, weight: Tensor) -> Tensor:
        still = weight.detach()
        return still + (weight - still) * self.trainable
