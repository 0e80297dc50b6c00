"""PixPro: each cell, smoothed over the cells that are like it, agrees with the teacher's of the same place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.losses.cells import cell_agreement
from mmssl.nn.mlp import mlp
from mmssl.objectives.cell_pairs import CellPairs
from mmssl.types import Encoder, Method
from mmssl.views import byol


class Propagation(nn.Module):
    """Gives each cell (B, N, D) the sum of all cells' transformed features, each weighed by how alike the two are.

    The weight is max(cosine, 0) to the power `sharpness`; the transform has so many linear layers, with BatchNorm and
    ReLU between them, and ends at unit length, as in the authors' code.
    """

    def __init__(self, dim: int, *, sharpness: float, layers: int) -> None:
        super().__init__()
        self.transform = mlp((dim,) * (layers + 1), bias=True) if layers else nn.Sequential()
        self.sharpness = sharpness

    def forward(self, x: Tensor) -> Tensor:
        values = F.normalize(self.transform(x.flatten(0, 1)).float(), dim=1).unflatten(0, x.shape[:2])
        with torch.autocast(x.device.type, enabled=False):
            unit = F.normalize(x.float(), dim=2)
            alike = (unit @ unit.mT).clamp(min=0)  # (B, N, N)
            return alike**self.sharpness @ values


class PixPro(CellPairs):
    """Minus the cosine of each cell's propagated features and the teacher's of the same place in the other crop.

    Xie et al., CVPR 2021. Checked against the authors' code (github.com/zdaxie/PixPro), whose loss is twice this one
    and whose hidden layer is 4096 wide; the loss of whole crops is that code's.

    embed_dim: size of a cell's projection.
    hidden: widths of the projection's hidden layers, and of the instances' predictor.
    sharpness: the power of the cosine by which cells propagate.
    layers: of the transform of what is propagated, 0 to leave it as it is.
    radius: the most that the centres of cells which match lie apart, in diagonals of the larger cell.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    instance: weight of the loss of whole crops; the paper combines both with 1.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (2048,),
        sharpness: float = 2.0,
        layers: int = 1,
        radius: float = 0.7,
        momentum: float = 0.99,
        instance: float = 0.0,
        encoder: str | None = None,
    ) -> None:
        options = {"radius": radius, "momentum": momentum, "instance": instance}
        super().__init__(encoders, embed_dim=embed_dim, hidden=hidden, encoder=encoder, **options)
        if sharpness < 1 or layers < 0:
            raise UserError(f"sharpness is {sharpness} and layers {layers}; expected at least 1 and at least 0")
        self.propagation = Propagation(embed_dim, sharpness=sharpness, layers=layers)

    def cost(self, mine: Tensor, taught: Tensor, near: Tensor) -> Tensor:
        return cell_agreement(self.propagation(mine), taught, near)


method = Method(byol.view, PixPro)
