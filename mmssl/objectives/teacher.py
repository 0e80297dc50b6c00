"""The teacher: a slow copy of the network, which gives what the network is to agree with."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmssl.nn.ema import ema_update
from mmssl.nn.head import Projection
from mmssl.objectives.multi_view import features_of_views, pooled_views
from mmssl.types import Encoder, Features


class Teacher(nn.Module):
    """Copies of an encoder and its head that never see a gradient, and follow by a moving average.

    It stays in training mode with the network: its BatchNorm looks at the batch. separate: as pooled_views has it.
    Tarvainen & Valpola, NeurIPS 2017.
    """

    def __init__(self, encoder: Encoder, head: Projection, *, separate: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = copy.deepcopy(encoder), copy.deepcopy(head)
        self.separate = separate
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, views: Sequence[Tensor], samples: int) -> list[Tensor]:
        """Returns the projection (B, out) of every view, not normalised."""
        seen = pooled_views(self.encoder, views, samples, separate=self.separate)
        return [self.head.project(pooled) for pooled in seen]

    @torch.no_grad()
    def features(self, views: Sequence[Tensor], samples: int) -> list[Features]:
        """Returns its encoder's features of every view, with their tokens and grid."""
        return features_of_views(self.encoder, views, samples, separate=self.separate)

    def follow(self, encoder: Encoder, head: Projection, *, decay: float) -> None:
        """Moves towards the network by 1 - decay."""
        ema_update(self.encoder, encoder, decay=decay)
        ema_update(self.head, head, decay=decay)
