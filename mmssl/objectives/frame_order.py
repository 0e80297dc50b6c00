"""What tasks about the order of frames share: each frame's own features, and the answer's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.types import Encoder, Loss


def each_frame(encoder: Encoder, video: Tensor, *, cells: int | None = None) -> Tensor:
    """Embeds every frame of (B, 3, T, H, W) on its own, as a video of one frame: (B, T, D).

    cells: instead of the pooled features those of the grid, averaged into cells x cells of it: (B, T, D cells^2), so
    that places are kept, as a network whose first layer reads a whole map keeps them.
    """
    batch, _, time = video.shape[:3]
    features = encoder(video.transpose(1, 2).flatten(0, 1)[:, :, None])  # of (B T, 3, 1, H, W)
    found = features.pooled
    if cells is not None:
        if features.tokens is None or features.grid is None:
            raise UserError(f"cells is {cells}, but this {encoder.modality} encoder has no grid; leave cells out")
        grid = features.tokens.unflatten(1, features.grid).movedim(-1, 1)  # (B T, D, t, h, w)
        found = F.adaptive_avg_pool2d(grid.flatten(2, -3).mean(2), cells).flatten(1)
    return found.unflatten(0, (batch, time))


def related(frames: Tensor, *, symmetric: bool = False) -> Tensor:
    """Puts the features of any two frames side by side, the earlier shown first: (B, T, D) -> (B, T (T - 1) / 2, 2 D).

    symmetric: their mean and the size of their difference instead, which do not tell which one is which.
    """
    earlier, later = torch.triu_indices(frames.shape[1], frames.shape[1], 1, device=frames.device)
    one, other = frames[:, earlier], frames[:, later]  # (B, P, D)
    return torch.cat([(one + other) / 2, (one - other).abs()] if symmetric else [one, other], dim=2)


def layers(widths: Sequence[int], *, dropout: float) -> nn.Sequential:
    """Makes linear layers from the first width to the last, each followed by ReLU and dropout."""
    made: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        made += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*made)


def classified(scores: Tensor, target: Tensor | None, present: Tensor) -> Loss:
    """Returns the cross-entropy of scores (B, classes), and how each sample that is present was answered."""
    assert target is not None, "the View of a task about order gives its target"
    loss = dist.mean(F.cross_entropy(scores.float(), target, reduction="none"), present)
    said = scores.detach().argmax(dim=1)
    correct = torch.where(present, (said == target).float(), torch.nan)
    answers = {"correct": correct, "said": torch.where(present, said.float(), torch.nan)}
    logs = {"accuracy": correct.nanmean(), "chance_loss": torch.tensor(math.log(scores.shape[1]))}
    return Loss(loss, logs, answers=answers)
