"""Rotation: say by which quarter turn a picture was turned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mmssl import dist
from mmssl.nn.mlp import mlp
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Loss, Method, Preprocess
from mmssl.views.single import Single

TURNS = 4


class Turned(Single):
    """Shows a picture in all four quarter turns, in this order; the target (B, 4) is the turn of each view.

    There is no guard to let down: turns by a quarter move pixels and change none. The rest as Single has it.
    """

    fixed_options: ClassVar = ("views",)
    chance = 1 / TURNS

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.35, 1.0),
        flip: float = 0.5,
        **rest: Any,
    ) -> None:
        super().__init__(preprocess, crop_scale=crop_scale, flip=flip, **rest)

    def on_device(self, batch: Batch) -> Batch:
        batch = super().on_device(batch)
        (picture,) = batch.views["image"]
        batch.views["image"] = [picture.rot90(turn, (2, 3)) for turn in range(TURNS)]
        batch.target = torch.arange(TURNS, device=picture.device).expand(len(picture), -1)
        return batch


class Rotation(MultiView):
    """Classifies the turn of each view from its pooled features. Gidaris et al., ICLR 2018.

    `correct` says for what share of its turns a picture was answered rightly.

    hidden: widths of the layers before the answer, each with BatchNorm; the paper has none on top of a network's last
        map.
    """

    modalities = ("image",)

    def __init__(self, encoders: Mapping[str, Encoder], *, hidden: Sequence[int] = ()) -> None:
        super().__init__(encoders, encoder="image")
        self.answer = mlp((self.dim, *hidden, TURNS), bias=True)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        pooled = torch.stack(self.pooled(encoders, batch), dim=1)  # (B, 4, D)
        present, target = self.present(batch), batch.target
        assert target is not None, "the View gives the turns"
        scores = self.answer(pooled.flatten(0, 1)).float().unflatten(0, target.shape)  # (B, 4, 4)
        losses = F.cross_entropy(scores.mT, target, reduction="none").mean(dim=1)
        correct = (scores.argmax(dim=2) == target).float().mean(dim=1).where(present, torch.nan)
        logs = {"accuracy": correct.nanmean(), "chance_loss": torch.tensor(math.log(scores.shape[2]))}
        return Loss(dist.mean(losses, present), logs, {self.key: pooled[:, 0].detach()}, {"correct": correct})


method = Method(Turned, Rotation)
