"""A modality of its own: depth in metres, in one channel, of the size of its image's view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmssl.types import Encoder, Features, Preprocess


@dataclass
class DepthPreprocess(Preprocess):
    """Lays depth out as (1, size, size) float32."""

    modality: ClassVar[str] = "depth"

    size: int = 32

    def __call__(self, raw: Any) -> Tensor:
        depth = torch.as_tensor(raw, dtype=torch.float32)[None, None]
        return nn.functional.interpolate(depth, (self.size, self.size), mode="nearest")[0]

    def blank(self) -> Tensor:
        return torch.zeros(1, self.size, self.size)


class Depth(Encoder):
    """Two strided convolutions.

    size: side of what it reads, in pixels.
    """

    modality = "depth"

    def __init__(self, *, size: int = 32, dim: int = 32) -> None:
        super().__init__()
        self.dim, self.preprocess = dim, DepthPreprocess(size)
        self.layers = nn.Sequential(nn.Conv2d(1, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, dim, 3, 2), nn.ReLU())

    def forward(self, x: Tensor) -> Features:
        cells = self.layers(x)
        return Features(cells.mean((2, 3)), cells.flatten(2).mT, grid=tuple(cells.shape[2:]))


encoder = Depth
