"""PixPro: every cell's propagated features agree with the teacher's of the same place in the other crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.head import Cells
from mmssl.numerics.geometry import same_place
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.types import Batch, Encoder, Features, Loss, Method, Spaces
from mmssl.views import byol


class Propagation(nn.Module):
    """Gives each cell a sum over all cells, transformed, by how alike they are.

    sharpness: the power of the cosine, which counts from 0 up.
    """

    def __init__(self, dim: int, *, sharpness: float = 2.0) -> None:
        super().__init__()
        self.transform, self.sharpness = nn.Linear(dim, dim), sharpness

    def forward(self, x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=2)  # (B, N, D)
        alike = (unit @ unit.mT).clamp(min=0) ** self.sharpness
        return alike @ self.transform(x)


def consistency(propagated: Tensor, taught: Tensor, near: Tensor) -> Tensor:
    """Returns minus the mean cosine of the cells that match, (B,), 0 where none do.

    propagated (B, N, D), taught (B, M, D). near: (B, N, M) bool.
    """
    cosines = F.normalize(propagated, dim=2) @ F.normalize(taught, dim=2).mT
    return -(cosines * near).sum((1, 2)) / near.sum((1, 2)).clamp(min=1)


class PixPro(MultiView):
    """Pixel-to-propagation consistency. Xie et al., CVPR 2021.

    embed_dim: of a cell's projection.
    hidden: hidden layers of the projection.
    sharpness: the power of the cosine by which cells propagate.
    radius: the most that cells which match lie apart, in diagonals of a cell.
    momentum: how slowly the teacher follows at the start; it rises to 1 by a cosine.
    encoder: as MultiView has it.
    """

    separate = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (2048,),
        sharpness: float = 2.0,
        radius: float = 0.7,
        momentum: float = 0.99,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if radius <= 0:
            raise UserError(f"radius is {radius}; expected diagonals of a cell above 0, such as 0.7")
        self.head = Cells(self.dim, out=embed_dim, hidden=hidden)
        self.propagation = Propagation(embed_dim, sharpness=sharpness)
        self.teacher = Teacher(encoders[self.key], self.head, separate=self.separate)
        self.radius, self.momentum = radius, momentum

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, places = self.present(batch), self.places(batch)
        one, other = self.features(encoders, batch)[:2]
        taught = self.teacher.features(self.views(batch)[:2], len(present))
        assert one.grid, "its cells lie on a grid"
        near = same_place(places[0], places[1], grid=one.grid, radius=self.radius)
        losses = self._agreement(one, taught[1], near) + self._agreement(other, taught[0], near.mT)
        there = present & near.any(2).any(1)
        return Loss(dist.mean(losses, there), {"cells": near.float().mean()}, {self.key: one.pooled.detach()})

    def _agreement(self, mine: Features, taught: Features, near: Tensor) -> Tensor:
        with torch.no_grad():
            goal = self.teacher.head.project_tokens(taught)
        return consistency(self.propagation(self.head.project_tokens(mine)), goal, near)

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(byol.view, PixPro)
