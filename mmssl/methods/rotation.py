"""Rotation: say by which quarter turn an image was turned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.nn.mlp import mlp
from mmssl.numerics.constants import constant
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views.template import Views

TURNS = 4


@dataclass(kw_only=True)
class QuarterTurns(OnBatch):
    """Shows an image in all four quarter turns, in this order; the target (B, 4) is the turn of each view.

    What moves with the image turns too. There is no guard to let down: turns by a quarter move pixels and change none.
    """

    single = True

    @property
    def chance(self) -> float:
        return 1 / TURNS

    def on_batch(self, batch: Batch) -> Batch:
        (picture,) = batch.views["image"]
        batch.views["image"] = [picture.rot90(turn, (2, 3)) for turn in range(TURNS)]
        batch.target = torch.arange(TURNS, device=picture.device).expand(len(picture), -1)
        return batch

    def maps(self, key: str, place: Tensor) -> list[Tensor]:
        return [quarter_turns(place, turn) for turn in range(TURNS)] if key == "image" else []


def quarter_turns(like: Tensor, turn: int) -> Tensor:
    """Returns the maps (B, 2, 3), in 0 to 1, from an image turned against the clock to what it was."""
    maps = ((1, 0, 0), (0, 1, 0)), ((0, -1, 1), (1, 0, 0)), ((-1, 0, 1), (0, -1, 1)), ((0, 1, 0), (-1, 0, 1))
    return constant(maps, like.device)[turn].to(like.dtype).expand(len(like), -1, -1)


class Rotation(MultiView):
    """Classifies the turn of each view from its pooled features. Gidaris et al., ICLR 2018.

    `correct` says for what share of its turns an image was answered rightly.

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


STEPS = [Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip()]

method = Method(Views(1, image=STEPS, after=[QuarterTurns()]), Rotation)
