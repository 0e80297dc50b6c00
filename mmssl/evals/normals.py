"""Surface normals by transfer: an encoder and a fully convolutional head tell how every pixel's surface is turned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.transfer import Dense, DenseTransfer, Network
from mmssl.transforms.fields import Kind
from mmssl.types import Batch, Encoder, Score

WITHIN = (11.25, 22.5, 30.0)  # degrees
BINS = 1800  # of a tenth of a degree
FACING = ("sideways", "up or down", "towards or away")  # by which component of a normal is the largest


@dataclass(kw_only=True, eq=False)
class Normals(DenseTransfer):
    """Angle between told and true normals in degrees: mean, median, and the share of pixels within some angles.

    The loss is the cosine distance, averaged over each image's pixels. Fouhey et al., ICCV 2013, and Wang et al., CVPR
    2015; as a judge of representations: Goyal et al., ICCV 2019. The interval is over samples. Trivial is the mean of
    the training set's normals everywhere, chance a direction drawn for each pixel. Parts of the mean are pixels whose
    normal points rather sideways, up or down, or along the view. The other options are those of every DenseTransfer.

    normals: the sample's key that holds them: an array (H, W, 3) in the camera's frame, such as normals.npy, or an
        image in which 0 to 255 stand for -1 to 1; what has no length does not count.
    """

    normals: str = "normals"

    def aligned(self) -> dict[str, Kind]:
        return {self.normals: "normals"}

    def network(self, encoder: Encoder) -> Network:
        return _Normals(encoder, self)

    def scores(self, answers: list[Any]) -> Iterator[tuple[str, Score]]:
        """Yields mean and median in degrees, then the share within 11.25, 22.5 and 30 degrees."""
        mine, trivial, facing = (torch.stack(found) for found in zip(*answers, strict=True))
        parts = {
            name: float(_mean(counts[None]))
            for name, counts in zip(FACING, facing.sum(dim=0), strict=True)
            if counts.any()
        }
        yield "mean", replace(_scored(mine, trivial, _mean, 90.0), parts=parts)
        yield "median", _scored(mine, trivial, _median, 90.0)
        for angle in WITHIN:
            chance = (1 - math.cos(math.radians(angle))) / 2
            yield f"within_{angle:g}", _scored(mine, trivial, partial(_within, angle=angle), chance)


class _Normals(Dense):
    total: Tensor

    def __init__(self, encoder: Encoder, options: Normals) -> None:
        super().__init__(encoder, 3, options)
        self.field = options.normals
        self.register_buffer("total", torch.zeros(3))  # of the training set's normals

    def loss(self, batch: Batch) -> Tensor:
        truth, there = self._truth(batch)
        self.total += truth.sum(dim=(0, 2, 3))
        losses = (1 - F.cosine_similarity(self(batch.views["image"][0]), truth, dim=1)) * there
        return (losses.sum(dim=(1, 2)) / there.sum(dim=(1, 2)).clamp(min=1)).mean()

    def answers(self, batch: Batch) -> list[Any]:
        """Returns of each sample how many pixels are off by each angle: as told, by the mean, by FACING."""
        truth, there = self._truth(batch)
        mine = angles(self(batch.views["image"][0]), truth)
        trivial = angles(self.total[None, :, None, None].expand_as(truth), truth)
        facing = truth.abs().argmax(dim=1)
        return [
            (
                counted(mine[i][there[i]]),
                counted(trivial[i][there[i]]),
                torch.stack([counted(mine[i][there[i] & (facing[i] == axis)]) for axis in range(3)]),
            )
            for i in range(len(truth))
            if there[i].any()
        ]

    def _truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns unit normals (B, 3, H, W), and where there are any (B, H, W)."""
        found: Tensor = batch.fields["image"][self.field][0]
        there = found.norm(dim=1) > 0.5  # less is between what was measured and what was not
        return F.normalize(found, dim=1) * there[:, None], there


def angles(told: Tensor, truth: Tensor) -> Tensor:
    """Returns degrees between vectors (B, 3, H, W): (B, H, W)."""
    told, truth = F.normalize(told.double(), dim=1), F.normalize(truth.double(), dim=1)
    return torch.rad2deg(2 * torch.atan2((told - truth).norm(dim=1), (told + truth).norm(dim=1)))


def counted(found: Tensor) -> Tensor:
    """Returns how many angles lie in each tenth of a degree (BINS,)."""
    return torch.bincount((found * (BINS / 180)).long().clamp(max=BINS - 1).cpu(), minlength=BINS).double()


def _scored(mine: Tensor, trivial: Tensor, figure: Callable[[Tensor], Tensor], chance: float) -> Score:
    """Scores counts of each sample (N, BINS) by a figure of the counts of several draws (R, BINS) -> (R,)."""

    def statistic(rows: Tensor) -> Tensor:
        several = rows[None] if rows.ndim == 1 else rows
        weights = torch.zeros(len(several), len(mine), dtype=torch.double)
        weights.scatter_add_(1, several.long(), torch.ones_like(several))
        values = figure(weights @ mine)
        return values[0] if rows.ndim == 1 else values

    score = bootstrap(torch.arange(len(mine)), chance=chance, statistic=statistic)
    return replace(score, trivial=float(figure(trivial.sum(dim=0, keepdim=True))))


def _mean(counts: Tensor) -> Tensor:
    middles = (torch.arange(BINS, dtype=torch.double) + 0.5) * (180 / BINS)
    return counts @ middles / counts.sum(dim=1)


def _median(counts: Tensor) -> Tensor:
    """Returns where half of the angles are smaller, on a line within the bin."""
    ends, half = counts.cumsum(dim=1), counts.sum(dim=1, keepdim=True) / 2
    place = torch.searchsorted(ends, half)
    inside = 1 - (ends.gather(1, place) - half) / counts.gather(1, place).clamp(min=1)
    return (place + inside)[:, 0] * (180 / BINS)


def _within(counts: Tensor, angle: float) -> Tensor:
    edge = angle * BINS / 180
    whole = int(edge)
    part = counts[:, whole] * (edge - whole)  # of the bin that the angle cuts
    return (counts[:, :whole].sum(dim=1) + part) / counts.sum(dim=1)


evaluation = Normals
