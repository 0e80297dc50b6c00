"""Cells of two crops that show the same place: what PixPro and PixContrast share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.cosine import negative_cosine
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Cells, grid_of
from mmssl.nn.mlp import mlp
from mmssl.numerics.geometry import same_place
from mmssl.objectives.multi_view import MultiView, features_of_views
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.types import Batch, Encoder, Features, Loss, Spaces


class CellPairs(MultiView):
    """Compares every cell of one crop with the teacher's cells of the other that show the same place, both ways.

    Xie et al., CVPR 2021. A method gives `cost`.

    embed_dim: size of a cell's projection.
    hidden: widths of the projection's hidden layers, and of the instances' predictor.
    radius: the most that the centres of cells which match lie apart, in diagonals of the larger cell.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    instance: weight of the loss of whole crops, which BYOL's heads predict.
    """

    compares = 2
    separate = True
    instance: Instance | None

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (2048,),
        radius: float = 0.7,
        momentum: float = 0.99,
        instance: float = 0.0,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if radius <= 0 or instance < 0:
            raise UserError(
                f"radius is {radius} and instance {instance}; expected diagonals of a cell above 0, such as 0.7, and a "
                "weight of 0 or more"
            )
        self.head = Cells(self.dim, out=embed_dim, hidden=hidden, bias=True)
        self.teacher = Teacher(encoders[self.key], self.head, separate=self.separate)
        self.radius, self.momentum, self.weight = radius, momentum, instance
        self.instance = Instance(self.dim, embed_dim, hidden) if instance else None

    def cost(self, mine: Tensor, taught: Tensor, near: Tensor) -> Tensor:
        """Returns what cells (B, N, D) cost against the teacher's (B, M, D), of which `near` match: (B,)."""
        raise NotImplementedError

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        views, present, places = self.views(batch)[:2], self.present(batch), self.places(batch)
        seen = features_of_views(encoders[self.key], views, len(present), separate=self.separate)
        taught = self.teacher.features(views, len(present))
        grids = [grid_of(features) for features in seen]
        near = same_place(places[0], places[1], grid=grids[0], other_grid=grids[1], radius=self.radius)  # (B, N, M)
        mine = [self.head.project_tokens(features) for features in seen]
        goals = [cast("Cells", self.teacher.head).project_tokens(features).detach() for features in taught]
        losses = self.cost(mine[0], goals[1], near) + self.cost(mine[1], goals[0], near.mT)
        if self.instance is not None:
            losses = losses + self.weight * self.instance(seen, taught)
        matched = near.any(dim=2).float().mean(dim=1).masked_fill(~present, torch.nan).nanmean()
        return Loss(dist.mean(losses, present), {"matched": matched}, {self.key: mine[0].detach().mean(dim=1)})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)
        if self.instance is not None:
            ema_update(self.instance.teacher, self.instance.head, decay=decay)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


class Instance(nn.Module):
    """Predicts from a crop's cells the teacher's projection of the other crop, both averaged over cells, as in BYOL.

    Returns minus the sum of both cosines (B,).
    """

    def __init__(self, dim: int, embed_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.head = Cells(dim, out=embed_dim, hidden=hidden, bias=True)
        self.predictor = mlp((embed_dim, *hidden, embed_dim), bias=True)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)

    def forward(self, seen: Sequence[Features], taught: Sequence[Features]) -> Tensor:
        asked = [self._predicted(self.head.project_tokens(features)).mean(dim=1) for features in seen]
        goals = [self.teacher.project_tokens(features).mean(dim=1) for features in taught]
        return negative_cosine(asked[0], goals[1]) + negative_cosine(asked[1], goals[0])

    def _predicted(self, cells: Tensor) -> Tensor:
        predicted: Tensor = self.predictor(cells.flatten(0, 1)).float()
        return predicted.unflatten(0, cells.shape[:2])
